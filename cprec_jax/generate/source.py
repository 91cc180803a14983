"""The model that is asked: the newest checkpoint of a work directory, or a Hugging Face directory, with its tokenizer and template."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cprec_jax.errors import UserError, one_line
from cprec_jax.generate.spec import GenerateSpec
from cprec_jax.hf import base
from cprec_jax.hf.hub import locate
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.hf.save import special_token_ids
from cprec_jax.model.decoder import Decoder
from cprec_jax.spec import build
from cprec_jax.text import tokenizer
from cprec_jax.text.packing import specs as text_specs
from cprec_jax.text.template import Template, TemplateSpec
from cprec_jax.text.tokenizer import Tokenizer
from cprec_jax.train import run
from cprec_jax.train.restore import restore_decoder

STAGE = "cpt"


@dataclass(frozen=True, kw_only=True)
class Source:
    """`name` is what is printed. `end_ids`: the tokens that end a text. `begin`: whether raw prompts start with BOS."""

    name: str
    decoder: Decoder
    params: Any
    tokenizer: Tokenizer
    template: Template
    end_ids: tuple[int, ...]
    begin: bool

    def encode(self, text: str) -> np.ndarray:
        """A raw prompt's tokens int32[p], with the special tokens it starts with.

        An own checkpoint was trained on documents that start with BOS; for a Hugging Face model its tokenizer knows best.
        """
        ids = self.tokenizer.backend.encode(text, add_special_tokens=True).ids
        bos = self.tokenizer.bos_id
        if self.begin and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        return np.asarray(ids, np.int32)

    @property
    def context(self) -> int:
        return self.decoder.config.max_position_embeddings


def open_source(config: Mapping[str, Any], spec: GenerateSpec, workdir: Path | None, model: str | None) -> Source:
    """Load `model` (a Hugging Face directory or hub id), or without it the checkpoint of `workdir`. Absent or unfit: `UserError`."""
    if model is not None:
        directory = locate(model)
        decoder, params = _computing(read_config(directory), spec), None
        words, _ = text_specs(config)
        tokens, template, name, kept = tokenizer.load(directory), words.template, str(model), directory
        params = load_params(directory, decoder.config)
    else:
        if workdir is None:
            raise UserError("--workdir=DIR (its newest checkpoint) or --model=DIR (a Hugging Face directory) is missing")
        restored = restore_decoder(workdir / "runs" / STAGE, step=spec.step)
        decoder, params = _computing(restored.decoder.config, spec), restored.params
        description = workdir / "runs" / STAGE
        template = build(TemplateSpec, run.read_description(description)["template"], f"{description / 'config.json'}: template")
        directory, kept = workdir / "rows" / STAGE / "tokenizer", description / base.DIRECTORY
        tokens, name = tokenizer.load(directory), f"{description}, step {restored.step}"
    if tokens.size > decoder.config.vocab_size:
        raise UserError(f"{directory}: {tokens.size} tokens, but the model's embedding has {decoder.config.vocab_size} rows")
    return Source(
        name=name,
        decoder=decoder,
        params=params,
        tokenizer=tokens,
        template=Template(template, tokens),
        end_ids=end_ids(directory, kept),
        begin=model is None,
    )


def _computing(config: Any, spec: GenerateSpec) -> Decoder:
    return Decoder(config=config, dtype=jnp.dtype(spec.dtype))


def end_ids(directory: Path, model: Path | None = None) -> tuple[int, ...]:
    """The end-of-text tokens: generation_config.json's word first (as transformers has it), then config.json's or the tokenizer's.

    directory: of the tokenizer; model: of those two files, where it is another (for a run: what is kept of its base model).
    """
    model = directory if model is None or not model.exists() else model
    path = model / "generation_config.json"
    found: Any = None
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)}); delete it or mend it") from error
    if found is None:
        found = special_token_ids(directory, model).get("eos_token_id", ())
    return tuple(found) if isinstance(found, list | tuple) else (int(found),)
