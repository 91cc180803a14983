"""Job `export`: a checkpoint -> WORKDIR/export/cpt, a Hugging Face directory with tokenizer and model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from cprec_jax import artefact
from cprec_jax.config.build import build
from cprec_jax.config.export import ExportSpec
from cprec_jax.config.root import Config
from cprec_jax.config.text import TemplateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.hf import base
from cprec_jax.hf.save import save
from cprec_jax.hf.tokenizer_check import TokenizerCheck
from cprec_jax.model.decoder import count_params
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.progress import say
from cprec_jax.report.model_card import model_card
from cprec_jax.text import tokenizer
from cprec_jax.train import run
from cprec_jax.train.restore import restore_decoder
from cprec_jax.workdir import corpus_directory, export_directory, rows_directory, run_directory, tokenizer_directory


def export(config: Config, workdir: Path, name: str, made_from: Mapping[str, Any]) -> None:
    """Write the directory of the run `name`; `transformers.AutoModelForCausalLM.from_pretrained` loads it."""
    spec = config.export or ExportSpec()
    directory = run_directory(workdir, 0, name)
    several = jax.device_count() > 1
    mesh = make_mesh(data=1, fsdp=-1) if several else None  # spread: a model that was trained on many devices may not fit one
    loaded = restore_decoder(directory, step=spec.step, mesh=mesh)
    description = run.read_description(directory)
    rows_dir = rows_directory(workdir, description["rows"])
    rows = artefact.read_json(rows_dir / artefact.MANIFEST, "pack")
    base_dir = directory / base.DIRECTORY
    check = _tokenizer_check(workdir, rows_dir, rows)
    facts = {
        "parameters": count_params(loaded.decoder.config),
        "step": loaded.step,
        "tokens": loaded.meta.get("tokens"),
        "dtype": spec.dtype,
        "base_model": base.hub_name(base_dir),
        "init_from": description["model"].init_from,
        "corpus_hash": rows["corpus_hash"],
        "rows_hash": rows["rows_hash"],
        "params_sha256": artefact.read_json(directory / artefact.MANIFEST, "train")["params_sha256"],
        "fine_tuned_on": description["sets"],
        "base_sha256": _base_hash(description[artefact.MADE_FROM]),
        "template": rows["template"],
        "training": run.training_facts(description["train"]) | {"objective": description["objective"], "start": description["start"]},
        "row_length": rows["row_length"],
        "titles_with_control_tokens": check.titles_with_control_tokens(),
    }
    target = export_directory(workdir, name)
    tokenizer_dir = tokenizer_directory(workdir, description["rows"])
    card = model_card(config, workdir, facts, base_dir if base_dir.exists() else None)
    save(
        target,
        loaded.params,
        loaded.decoder.config,
        tokenizer_dir,
        card,
        dtype=spec.dtype,
        shard_bytes=spec.shard_bytes,
        base_dir=base_dir if base_dir.exists() else None,
        check=check.run,
    )
    if jax.process_index() == 0:
        artefact.write_manifest(target, made_from, facts)
    say(f"export: step {loaded.step} -> {target}")


def _base_hash(made_from: Mapping[str, Any]) -> str | None:
    """Of the weights of the base model, where they lay in a directory of its own."""
    weights = {name: sha256 for name, sha256 in made_from["files"].items() if name.startswith("config.model.init_from")}
    return artefact.fingerprint(weights) if weights else None


def _tokenizer_check(workdir: Path, rows_dir: Path, rows: Mapping[str, Any]) -> TokenizerCheck:
    """Titles and template of the run, as far as the corpus is still there."""
    template = build(TemplateSpec, rows["template"], f"{rows_dir / artefact.MANIFEST}: template")
    titles, domains = [], []
    if (corpus_directory(workdir) / artefact.MANIFEST).exists():
        corpus = Corpus.open(corpus_directory(workdir))
        titles, domains = corpus.items.title, corpus.domains
    else:
        say("export: the corpus is gone, so the exported tokenizer is compared on the template alone")
    return TokenizerCheck(
        tokenizer=tokenizer.load(rows_dir / "tokenizer"),
        template=template,
        titles=titles,
        scopes=[*domains, template.all_domains],
    )
