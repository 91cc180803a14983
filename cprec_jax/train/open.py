"""Opens a model: a checkpoint of a run, or a Hugging Face directory. For evaluation with the tokens of all titles."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp

from cprec_jax.config.evaluate import MethodSpec
from cprec_jax.config.model import ModelSpec
from cprec_jax.config.text import TemplateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.hf import adapter
from cprec_jax.hf.hub import locate
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.model.decoder import Decoder
from cprec_jax.progress import say
from cprec_jax.rows import saved_catalogue
from cprec_jax.text import tokenizer as tokenizers
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.template import Template
from cprec_jax.text.tokenizer import Tokenizer
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.description import make_decoder, read_description
from cprec_jax.train.restore import restore_decoder
from cprec_jax.workdir import run_directory, tokenizer_directory


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A decoder with parameters, its tokenizer (from `tokenizer_dir`) and its template.

    step: of the checkpoint; None for a Hugging Face directory.
    """

    decoder: Decoder
    params: Any
    tokenizer_dir: Path
    tokenizer: Tokenizer
    template: Template
    step: int | None


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A decoder with parameters, its template, and the corpus's titles in its tokens.

    step: of the checkpoint; None for a Hugging Face directory and for parameters that are passed in.
    """

    decoder: Decoder
    params: Any
    catalogue: Catalogue
    template: Template
    step: int | None
    tokenizer: Tokenizer | None = None


def checkpoint_steps(directory: Path) -> list[int]:
    """The steps of a run's checkpoints after step 0, ascending. Raises `UserError` where there are none."""
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    steps = [step for step in checkpoints.steps() if step > 0]
    checkpoints.close()
    if not steps:
        raise UserError(f"{directory}: no checkpoint after step 0; run `launch.py train` first")
    return steps


def load_model(
    spec: MethodSpec, template: TemplateSpec, workdir: Path, corpus: Corpus, directory: Path | None = None
) -> LoadedModel:
    """The model of a method of kind `untrained`, `checkpoint` or `hf`.

    Args:
      template: for kind `hf`; a run has its own.
      directory: of the run, for the other kinds; None: the default run of `workdir`.

    Raises `UserError` where it is absent or unfit.
    """
    if spec.kind == "hf":
        assert spec.path is not None
        opened = open_directory(spec.path, template)
    else:
        step = 0 if spec.kind == "untrained" else cast("int | None", spec.step)
        opened = open_run(workdir, directory or run_directory(workdir), step, spec.fraction)
    return _with_titles(opened, corpus, of_run=spec.kind != "hf")


def run_with_params(workdir: Path, directory: Path, corpus: Corpus, params: Any) -> LoadedModel:
    """The model of the run `directory`, finished or not, with the parameters `params`."""
    description = read_description(directory)
    decoder = make_decoder(ModelSpec(), description["decoder"])
    return _with_titles(_opened_run(workdir, description, decoder, params, None), corpus, of_run=True)


def _with_titles(opened: OpenedModel, corpus: Corpus, of_run: bool) -> LoadedModel:
    """The model with the tokens of all titles. of_run: they may be saved beside the rows of its tokenizer."""
    titles, end_of_item = corpus.items.title, opened.template.spec.end_of_item
    if of_run:
        catalogue = saved_catalogue.load_or_build(opened.tokenizer_dir.parent, opened.tokenizer, titles, end_of_item)
    else:
        catalogue = Catalogue.build(opened.tokenizer, titles, end_of_item)
    if catalogue.losses:
        say(f"warning: {opened.tokenizer_dir}: the tokenizer loses parts of titles: {catalogue.losses}")
    return LoadedModel(
        decoder=opened.decoder,
        params=opened.params,
        catalogue=catalogue,
        template=opened.template,
        step=opened.step,
        tokenizer=opened.tokenizer,
    )


def open_directory(location: str, template: TemplateSpec) -> OpenedModel:
    """Open a Hugging Face directory or hub id, with a template. Raises `UserError` where it is absent or unfit."""
    directory = locate(location)
    decoder = Decoder(config=read_config(directory), dtype=jnp.float32)
    params = load_params(directory, decoder.config)
    directory = adapter.tokenizer_directory(directory)
    tokenizer = _load_tokenizer(directory, decoder)
    return OpenedModel(
        decoder=decoder,
        params=params,
        tokenizer_dir=directory,
        tokenizer=tokenizer,
        template=Template(template, tokenizer),
        step=None,
    )


def open_run(workdir: Path, directory: Path, step: int | None = None, fraction: float | None = None) -> OpenedModel:
    """Open a checkpoint (see `restore_decoder`) of the run `directory` of `workdir`, with the run's template."""
    restored = restore_decoder(directory, step=step, fraction=fraction)
    return _opened_run(workdir, read_description(directory), restored.decoder, restored.params, restored.step)


def _opened_run(
    workdir: Path, description: Mapping[str, Any], decoder: Decoder, params: Any, step: int | None
) -> OpenedModel:
    tokenizer_dir = tokenizer_directory(workdir, description["rows"])
    tokenizer = _load_tokenizer(tokenizer_dir, decoder)
    return OpenedModel(
        decoder=decoder,
        params=params,
        tokenizer_dir=tokenizer_dir,
        tokenizer=tokenizer,
        template=Template(description["template"], tokenizer),
        step=step,
    )


def _load_tokenizer(directory: Path, decoder: Decoder) -> Tokenizer:
    tokenizer = tokenizers.load(directory)
    if tokenizer.size > decoder.config.vocab_size:
        raise UserError(
            f"{directory}: {tokenizer.size} tokens, but the model's embedding has {decoder.config.vocab_size} rows"
        )
    return tokenizer
