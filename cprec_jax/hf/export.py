"""Job `export`: a checkpoint -> WORKDIR/export/cpt, a Hugging Face directory with tokenizer and model card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cprec_jax import artefact
from cprec_jax.hf.save import save
from cprec_jax.model.decoder import count_params
from cprec_jax.progress import say
from cprec_jax.report.model_card import model_card
from cprec_jax.spec import build
from cprec_jax.train import run
from cprec_jax.train.restore import restore_decoder

STAGE = "cpt"


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """`config.export`: stored dtype, and which checkpoint (None: the newest)."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    step: int | None = None


def export_inputs(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """What an export is made from: the section and the run's parameters."""
    trained = artefact.read_json(workdir / "runs" / STAGE / artefact.MANIFEST, "train")
    return {"job": "export", "export": config.get("export", {}), "params": trained["params_sha256"]}


def export(config: Mapping[str, Any], workdir: Path) -> None:
    """Write the directory; `transformers.AutoModelForCausalLM.from_pretrained` loads it."""
    spec = build(ExportSpec, config.get("export", {}), "config.export")
    inputs = export_inputs(config, workdir)
    loaded = restore_decoder(workdir / "runs" / STAGE, step=spec.step)
    rows = artefact.read_json(workdir / "rows" / STAGE / artefact.MANIFEST, "pack")
    description = run.read_description(workdir / "runs" / STAGE)
    facts = {
        "parameters": count_params(loaded.decoder.config),
        "step": loaded.step,
        "tokens": loaded.meta.get("tokens"),
        "dtype": spec.dtype,
        "init_from": description["config"].get("model", {}).get("init_from"),
        "corpus_hash": rows["corpus_hash"],
        "rows_hash": rows["rows_hash"],
        "params_sha256": inputs["params"],
        "template": rows["template"],
    }
    target = workdir / "export" / STAGE
    save(
        target, loaded.params, loaded.decoder.config, workdir / "rows" / STAGE / "tokenizer", model_card(config, workdir, facts), spec.dtype
    )
    artefact.write_json(target / artefact.MANIFEST, {"version": 1, "inputs_hash": artefact.fingerprint(inputs), **facts})
    say(f"export: step {loaded.step} -> {target}")
