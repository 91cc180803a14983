"""Loading what a method names: a checkpoint of the run, or a Hugging Face directory, with the tokens of the corpus's titles."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp

from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate.spec import MethodSpec
from cprec_jax.hf.hub import locate
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.model.decoder import Decoder
from cprec_jax.spec import build
from cprec_jax.text import tokenizer
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.packing import specs as text_specs
from cprec_jax.text.template import Template, TemplateSpec
from cprec_jax.train import run
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.restore import restore_decoder

STAGE = "cpt"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A decoder with parameters, and the titles and template in its own tokens. `step` is None for a Hugging Face directory."""

    decoder: Decoder
    params: Any
    catalogue: Catalogue
    template: Template
    step: int | None
    words: tokenizer.Tokenizer | None = None


def run_directories(workdir: Path, seeds: int) -> list[Path]:
    """The runs to evaluate: runs/cpt, and of further seeds runs/cpt/seed-1, ... One that is missing is a `UserError`."""
    wanted = [run.run_directory(workdir, seed) for seed in range(seeds)]
    for directory in wanted[1:]:
        if not directory.is_dir():
            raise UserError(f"{directory}: not there; `launch.py train` with this config trains it, or set config.train.seeds = 1")
    return wanted


def checkpoint_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints of a run that saw any training."""
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    steps = [step for step in checkpoints.steps() if step > 0]
    checkpoints.close()
    if not steps:
        raise UserError(f"{directory}: no checkpoint after step 0; run `launch.py train` first")
    return steps


def load_model(spec: MethodSpec, config: Mapping[str, Any], workdir: Path, corpus: Corpus, directory: Path | None = None) -> LoadedModel:
    """The model of a method of kind `untrained`, `checkpoint` (of the run `directory`) or `hf`. Absent or unfit: `UserError`."""
    if spec.kind == "hf":
        assert spec.path is not None
        directory = locate(spec.path)
        decoder = Decoder(config=read_config(directory), dtype=jnp.float32)
        words, _ = text_specs(config)
        return _bound(decoder, load_params(directory, decoder.config), directory, words.template, corpus, None)
    directory = directory or workdir / "runs" / STAGE
    restored = restore_decoder(directory, step=0 if spec.kind == "untrained" else cast("int | None", spec.step), fraction=spec.fraction)
    template = build(TemplateSpec, run.read_description(directory)["template"], f"{directory / 'config.json'}: template")
    return _bound(restored.decoder, restored.params, workdir / "rows" / STAGE / "tokenizer", template, corpus, restored.step)


def _bound(decoder: Decoder, params: Any, tokenizer_dir: Path, template: TemplateSpec, corpus: Corpus, step: int | None) -> LoadedModel:
    tokens = tokenizer.load(tokenizer_dir)
    if tokens.size > decoder.config.vocab_size:
        raise UserError(f"{tokenizer_dir}: {tokens.size} tokens, but the model's embedding has {decoder.config.vocab_size} rows")
    catalogue = Catalogue.build(tokens, corpus.items.title, template.end_of_item)
    return LoadedModel(decoder=decoder, params=params, catalogue=catalogue, template=Template(template, tokens), step=step, words=tokens)
