"""The README.md of an exported model: Hugging Face front matter, what it was made from, how to use it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cprec_jax.artefact import MANIFEST
from cprec_jax.config.root import Config
from cprec_jax.corpus import SMALL_SET
from cprec_jax.evaluate.results import read_results, result_files
from cprec_jax.report.entries import ordered, with_random
from cprec_jax.report.render import escape_markdown, markdown_table, one_line
from cprec_jax.report.report import one_protocol, read_manifest
from cprec_jax.report.set_facts import set_names
from cprec_jax.report.table import describe
from cprec_jax.report.tables import main_table
from cprec_jax.workdir import corpus_directory

TAGS = ("recommendation", "sequential-recommendation", "continual-pre-training", "jax", "flax")


def model_card(config: Config, workdir: Path, facts: Mapping[str, Any], base_dir: Path | None = None) -> str:
    """Markdown of the card.

    Args:
      config: of the job; the title and the order of the results are taken from it. How the run was trained is in
        `facts`.
      facts: what the export knows; all optional: `parameters`, `step`, `tokens`, `dtype`, `init_from`, `corpus_hash`,
        `rows_hash`, `params_sha256`, `base_sha256`, `base_model` (its name on the hub), `template` (`header`,
        `end_of_item`, `all_domains`), `training` (`train.run.training_facts`), `adapter_of` (of an adapter alone: its
        base model), `row_length`, `fine_tuned_on` (sets), `run` (its directory's name).
      base_dir: where the base model's own card is; default: `init_from`.

    The results table is left out where nothing was evaluated yet; a damaged results.json is a `UserError`, as in the
    report.
    """
    workdir = Path(workdir)
    base = Path(str(facts["init_from"])) if facts.get("init_from") else None
    licence = base_licence(base_dir or base) if base else ""
    manifest = read_manifest(workdir) if (corpus_directory(workdir) / MANIFEST).exists() else {}
    parts = [
        _front_matter(
            licence, str(facts.get("adapter_of") or facts.get("base_model") or ""), bool(facts.get("adapter_of"))
        ),
        f"# {escape_markdown(_title(config))}",
        _what(base, facts),
        "## Data\n\n" + _data(manifest, facts.get("fine_tuned_on") or ()),
        "## Template\n\n" + _template(facts.get("template") or {}),
        "## Training\n\n" + _training(facts),
        _results(config, workdir, manifest, facts.get("step")),
        "## Use\n\n"
        + _use(facts.get("template") or {}, _first_domain(manifest), int(facts.get("titles_with_control_tokens") or 0)),
        "## Limits\n\n" + _limits(base, licence),
        "## Hashes\n\n" + _hashes(facts),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _title(config: Config) -> str:
    return config.name or config.report.title


def base_licence(directory: Path) -> str:
    """`license:` of the base model's own card; empty where there is none."""
    try:
        lines = (directory / "README.md").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    if not lines or lines[0].strip() != "---":
        return ""
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        if key.strip() == "license":
            return value.strip().strip("'\"")
    return ""


def _front_matter(licence: str, base_model: str, adapter: bool) -> str:
    # JSON strings are YAML strings: whatever stands in a foreign card cannot break out of its line.
    lines = [f"license: {json.dumps(licence)}"] if licence else []
    lines += [f"base_model: {json.dumps(base_model)}"] if base_model else []
    lines += [
        f"library_name: {'peft' if adapter else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {tag}" for tag in TAGS),
    ]
    return "\n".join(["---", *lines, "---"])


def _what(base: Path | None, facts: Mapping[str, Any]) -> str:
    size = f" with {facts['parameters']:,} parameters" if isinstance(facts.get("parameters"), int) else ""
    start = f"starting from `{_code(base.name)}`" if base else "trained from scratch"
    return (
        f"A causal language model{size}, {start}, {_trained_how(facts)}, written as text "
        "(the recipe of CPRec, Ma et al., arXiv 2504.08949, in JAX/Flax with `cprec_jax`). It ranks the next item of "
        "a user by the "
        "likelihood of its title."
    )


def _trained_how(facts: Mapping[str, Any]) -> str:
    sets = facts.get("fine_tuned_on")
    if not sets:
        return "pre-trained on the behaviour of users over several domains"
    start = (facts.get("training") or {}).get("start")
    before = f" after the run `{_code(start)}`" if start else ""
    return f"fine-tuned on the behaviour of users in {escape_markdown(', '.join(sets))}{before}"


def _data(manifest: Mapping[str, Any], fine_tuned_on: Sequence[str] = ()) -> str:
    if not manifest:
        return "The corpus was not beside the model when this card was written."
    lines = ["| Domain | Role | Items | Interactions trained on |", "|---|---|---:|---:|"]
    for name, info in manifest["sets"].items():
        kept = (list(manifest.get("counts", {}).get(name, {}).values()) or [{}])[-1]
        seen, trained_on = (
            ("pre-training", kept.get("interactions")) if info.get("role") == "pretrain" else ("evaluation only", None)
        )
        if name in fine_tuned_on:
            seen, trained_on = "fine-tuning", kept.get("interactions") if trained_on is None else trained_on
        lines.append(f"| {escape_markdown(name)} | {seen} | {describe(info.get('n_items'))} | {describe(trained_on)} |")
    return "\n".join(lines) + (
        "\n\nOnly interactions before the validation targets were trained on. User ids are never part of the text; "
        "titles are."
    )


def _template(template: Mapping[str, Any]) -> str:
    if not template:
        return "Not recorded."
    header, end = str(template.get("header", "")), str(template.get("end_of_item", ""))
    mixed = str(template.get("all_domains", ""))
    return (
        "A header, then the user's items, oldest first, each closed by the end of item.\n\n- header: "
        f"`{_code(json.dumps(header))}`\n"
        f"- end of item: `{_code(json.dumps(end))}`\n- `{{scope}}` is the name of a domain, or "
        f"`{_code(json.dumps(mixed))}`"
    )


def _code(text: str) -> str:
    return one_line(text).replace("`", "'")


def _training(facts: Mapping[str, Any]) -> str:
    train = facts.get("training") or {}
    lines = [
        f"- {label}: {describe(facts[key])}"
        for key, label in (("step", "steps"), ("tokens", "tokens"))
        if facts.get(key) is not None
    ]
    labels = {
        "objective": "loss",
        "adapter": "trained as an adapter (LoRA)",
        "schedule": "schedule (Warmup-Stable-Annealing)",
        "optimizer": "optimizer",
        "global_batch": "global batch in rows",
        "seed": "seed",
    }
    lines += [
        f"- {label}: {escape_markdown(describe(train[key]))}"
        for key, label in labels.items()
        if train.get(key) not in (None, {})
    ]
    if facts.get("row_length"):
        lines.append(f"- row length: {describe(facts['row_length'])} tokens")
    if facts.get("dtype"):
        lines.append(f"- stored as: {escape_markdown(str(facts['dtype']))}")
    return "\n".join(lines) or "Not recorded."


def _results(config: Config, workdir: Path, manifest: Mapping[str, Any], step: Any) -> str:
    if not manifest or not result_files(workdir):
        return ""
    fitting, _ = one_protocol(read_results(workdir), manifest)
    if not fitting:  # all of another corpus: nothing to print, and nothing to stop an export for
        return ""
    results = with_random(ordered(fitting, list(config.evaluate.names)), manifest)
    this = [
        f"`{_code(result.name)}`"
        for result in results
        if result.kind == "checkpoint" and result.step is not None and result.step == step
    ]
    tables = [markdown_table(main_table(name, results, (), manifest)) for name in set_names(results, manifest)]
    intro = (
        "Ranking of the whole catalogue, one test target per user. Bold: best measured method, underlined: second; NLL "
        "in nats, less is "
        "better; 95 % intervals in brackets." + (f" This model is the row {', '.join(this)}." if this else "")
    )
    return "\n\n".join([f"## Results\n\n{intro}", *tables])


def _first_domain(manifest: Mapping[str, Any]) -> str:
    return next(iter(manifest.get("sets", {})), "Books")


USE = """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

directory = "."  # where this file lies
HEADER = {header}
END_OF_ITEM = {end}

tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForCausalLM.from_pretrained(directory).eval()


def tokens(text):  # every piece is tokenised by itself, as in training
    return tokenizer.encode(text, add_special_tokens=False)


def prompt(domain, history):
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    start += tokens(HEADER.replace("{{scope}}", domain))
    return start + [token for title in history for token in tokens(title + END_OF_ITEM)]


@torch.no_grad()
def score(prefix, title):  # log-likelihood of the title and its end, in nats
    item = tokens(title + END_OF_ITEM)
    logits = model(torch.tensor([prefix + item])).logits[0, len(prefix) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(item)[:, None]).sum().item()


prefix = prompt({domain}, ["A title", "Another title"])  # oldest first
ranked = sorted(["One candidate", "Another candidate"], key=lambda title: score(prefix, title), reverse=True)
"""


def _use(template: Mapping[str, Any], domain: str, control_titles: int = 0) -> str:
    if not template:
        return "Load with `transformers.AutoModelForCausalLM.from_pretrained`."
    values = {
        "header": repr(str(template.get("header", ""))),
        "end": repr(str(template.get("end_of_item", ""))),
        "domain": repr(one_line(domain)),
    }
    fence = "```"
    control = (
        f"\n\n{control_titles} of the titles hold the text of a control token of the tokenizer, which was read as "
        "text in training: give "
        "`tokenizer.encode` the argument `split_special_tokens=True` for these."
        if control_titles
        else ""
    )
    return (
        f"{fence}python\n{USE.format(**values).replace(fence, '')}{fence}\n\n"
        "This is the rule `sum`, which favours short titles. `launch.py evaluate` also has `mean` and `trie`, the "
        "latter an exact "
        f"distribution over a whole catalogue, and is much faster.{control}"
    )


def _limits(base: Path | None, licence: str) -> str:
    lines = [
        "It ranks titles; it is no assistant, and text it writes freely is not to be relied on.",
        "It reflects the taste, the gaps and the popularity bias of the people in its data, and of the time they come "
        "from.",
        "Training titles may be reproduced word for word. Check the terms of the data before giving the model to "
        "others.",
        f"Figures hold for the protocol named; sets with fewer than {SMALL_SET} test users are marked as too small.",
    ]
    if base:
        whose = (
            f"The base model's licence is `{_code(licence)}`."
            if licence
            else "The base model's card names no licence: look it up."
        )
        lines.append(whose)
    else:
        lines.append("No licence has been chosen for these weights.")
    return "\n".join(f"- {line}" for line in lines)


def _hashes(facts: Mapping[str, Any]) -> str:
    names: Sequence[tuple[str, str]] = (
        ("corpus_hash", "corpus"),
        ("rows_hash", "rows"),
        ("params_sha256", "parameters"),
        ("base_sha256", "base model's files"),
    )
    lines = [f"- {label}: `{_code(str(facts[key]))}`" for key, label in names if facts.get(key)]
    return "\n".join(lines) or "Not recorded."
