"""Job `export`: a checkpoint -> WORKDIR/export/cpt, a Hugging Face directory with tokenizer and model card."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from cprec_jax import artefact
from cprec_jax.corpus import Corpus
from cprec_jax.hf import base
from cprec_jax.hf.save import save
from cprec_jax.hf.tokenizer_check import TokenizerCheck
from cprec_jax.model.decoder import count_params
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.progress import say
from cprec_jax.report.model_card import card_inputs, model_card
from cprec_jax.spec import build
from cprec_jax.text import tokenizer
from cprec_jax.text.template import TemplateSpec
from cprec_jax.train import run
from cprec_jax.train.restore import restore_decoder


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """`config.export`: stored dtype, which checkpoint (None: the newest), and the size of a weights file ("500MB", "4GiB") from which on
    there are several and an index."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    step: int | None = None
    max_shard_size: str = "4GiB"

    def __post_init__(self) -> None:
        self.shard_bytes  # noqa: B018  (raises where it is no size)

    @property
    def shard_bytes(self) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", self.max_shard_size)
        if match is None or not float(match[1]):
            raise ValueError(f"max_shard_size {self.max_shard_size!r}: write a number and KB, MB, GB, KiB, MiB or GiB")
        return int(float(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))


def export_inputs(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """What an export is made from: the section, the run's parameters, and what the card shows beside them."""
    trained = artefact.read_json(run.run_directory(workdir) / artefact.MANIFEST, "train")
    section, card = config.get("export", {}), card_inputs(config, workdir)
    return {"job": "export", "export": section, "params": trained["params_sha256"], "card": card}


def export(config: Mapping[str, Any], workdir: Path) -> None:
    """Write the directory; `transformers.AutoModelForCausalLM.from_pretrained` loads it."""
    spec = build(ExportSpec, config.get("export", {}), "config.export")
    inputs = export_inputs(config, workdir)
    several = jax.device_count() > 1
    mesh = make_mesh(data=1, fsdp=-1) if several else None  # spread: a model that was trained on many devices may not fit one
    loaded = restore_decoder(run.run_directory(workdir), step=spec.step, mesh=mesh)
    rows = artefact.read_json(workdir / "rows" / run.STAGE / artefact.MANIFEST, "pack")
    description = run.read_description(run.run_directory(workdir))
    base_dir = run.run_directory(workdir) / base.DIRECTORY
    check = _tokenizer_check(workdir, rows)
    facts = {
        "parameters": count_params(loaded.decoder.config),
        "step": loaded.step,
        "tokens": loaded.meta.get("tokens"),
        "dtype": spec.dtype,
        "base_model": base.hub_name(base_dir),
        "init_from": description["config"].get("model", {}).get("init_from"),
        "corpus_hash": rows["corpus_hash"],
        "rows_hash": rows["rows_hash"],
        "params_sha256": inputs["params"],
        "base_sha256": artefact.fingerprint(description["inputs"]["base"]) if description["inputs"].get("base") else None,
        "template": rows["template"],
        "training": run.training_facts(description["config"]["train"]),
        "row_length": rows["row_length"],
        "titles_with_control_tokens": check.titles_with_control_tokens(),
    }
    target = workdir / "export" / run.STAGE
    tokenizer_dir = workdir / "rows" / run.STAGE / "tokenizer"
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
        record = {"version": 1, "inputs_hash": artefact.fingerprint(inputs), "file_sizes": artefact.file_sizes(target), **facts}
        artefact.write_json(target / artefact.MANIFEST, record)
    say(f"export: step {loaded.step} -> {target}")


def _tokenizer_check(workdir: Path, rows: Mapping[str, Any]) -> TokenizerCheck:
    """Titles and template of the run, as far as the corpus is still there."""
    template = build(TemplateSpec, rows["template"], f"{workdir / 'rows' / run.STAGE / artefact.MANIFEST}: template")
    titles, domains = [], []
    if (workdir / "corpus" / artefact.MANIFEST).exists():
        corpus = Corpus.open(workdir / "corpus")
        titles, domains = corpus.items.title, corpus.domains
    else:
        say("export: the corpus is gone, so the exported tokenizer is compared on the template alone")
    return TokenizerCheck(
        tokenizer=tokenizer.load(workdir / "rows" / run.STAGE / "tokenizer"),
        template=template,
        titles=titles,
        scopes=[*domains, template.all_domains],
    )
