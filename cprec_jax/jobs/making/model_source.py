"""The model of `generate`: the newest checkpoint of a work directory, or a Hugging Face directory, with tokenizer and
template."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cprec_jax.config.generate import GenerateSpec
from cprec_jax.config.text import TemplateSpec
from cprec_jax.errors import UserError
from cprec_jax.hf import base
from cprec_jax.hf.checkpoint_files import read_json
from cprec_jax.hf.save import special_token_ids
from cprec_jax.model.decoder import Decoder
from cprec_jax.text.template import Template
from cprec_jax.text.tokenizer import Tokenizer
from cprec_jax.train.open import open_directory, open_run
from cprec_jax.workdir import CPT, run_directories, run_directory


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

        An own checkpoint was trained on documents that start with BOS; for a Hugging Face model its tokenizer knows
        best.
        """
        ids = self.tokenizer.backend.encode(text, add_special_tokens=True).ids
        bos = self.tokenizer.bos_id
        if self.begin and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        return np.asarray(ids, np.int32)

    @property
    def context(self) -> int:
        return self.decoder.config.max_position_embeddings


def open_source(template: TemplateSpec, spec: GenerateSpec, workdir: Path | None, model: str | None) -> Source:
    """Load `model` (a Hugging Face directory or hub id, with `template`), or the checkpoint of `workdir`. Absent or
    unfit: `UserError`."""
    if model is not None:
        opened, name = open_directory(model, template), model
        kept = opened.tokenizer_dir
    else:
        if workdir is None:
            raise UserError(
                "--workdir=DIR (its newest checkpoint) or --model=DIR (a Hugging Face directory) is missing"
            )
        directory = run_directory(workdir, 0, spec.run or _only_run(workdir))
        opened, kept = open_run(workdir, directory, spec.step), directory / base.DIRECTORY
        name = f"{directory}, step {opened.step}"
    return Source(
        name=name,
        decoder=Decoder(config=opened.decoder.config, dtype=jnp.dtype(spec.dtype)),
        params=opened.params,
        tokenizer=opened.tokenizer,
        template=opened.template,
        end_ids=end_ids(opened.tokenizer_dir, kept),
        begin=model is None,
    )


def _only_run(workdir: Path) -> str:
    """The run that is meant where none is named: `cpt`, or the only one that is there."""
    names = [path.name for path in run_directories(workdir) if ".seed-" not in path.name]
    if CPT in names or not names:
        return CPT
    if len(names) > 1:
        raise UserError(f"config.generate.run: say which run; {workdir} has {', '.join(names)}")
    return names[0]


def end_ids(directory: Path, model: Path | None = None) -> tuple[int, ...]:
    """The end-of-text tokens: those of generation_config.json where it names some, as in transformers; else those of
    config.json or of the tokenizer.

    directory: of the tokenizer; model: of those two files, where it is another (for a run: what is kept of its base
    model).
    """
    model = directory if model is None or not model.exists() else model
    path = model / "generation_config.json"
    ids: Any = read_json(path).get("eos_token_id") if path.exists() else None
    if ids is None:
        ids = special_token_ids(directory, model).get("eos_token_id", ())
    return tuple(ids) if isinstance(ids, list | tuple) else (int(ids),)
