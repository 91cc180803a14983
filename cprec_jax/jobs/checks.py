"""Checks every path that a config names before anything is made: it is there, of its kind, and fits what it belongs
to."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from cprec_jax.config.root import Config
from cprec_jax.config.text import TRAIN
from cprec_jax.errors import UserError
from cprec_jax.paths import bucket_or_path, local_path

Check = Callable[[], object]


def check_paths(config: Config, jobs: Sequence[str] | None = None) -> None:
    """`UserError` with all mistakes, one line each; jobs: only what these read."""
    if lines := mistakes(config, jobs):
        raise UserError("\n".join(lines))


def mistakes(config: Config, jobs: Sequence[str] | None = None) -> list[str]:
    """What is wrong with the paths of a config, one line each."""
    lines: dict[str, None] = {}
    for job, check in _checks(config):
        if jobs is not None and job not in jobs:
            continue
        try:
            check()
        except UserError as error:
            lines |= dict.fromkeys(str(error).splitlines())
    return list(lines)


def _checks(config: Config) -> Iterator[tuple[str, Check]]:
    """The job that reads a path, and a function that raises `UserError` where something is wrong with it."""
    if config.corpus is not None:
        yield from (("prepare", check) for check in _of_sources(config))
    if config.text.source != TRAIN:
        yield "pack", lambda: _tokenizer(config.text.source)
    if config.pack.text is not None:
        yield "pack", lambda: _general_text(config)
    if config.train is not None and config.model.init_from is not None:
        yield "train", lambda: _base_model(config)
    for near in {run.train.near for run in config.runs.values()} - {None}:
        yield "train", partial(local_path, str(near), "config.train.near")
    for address in {run.train.copy_to for run in config.runs.values()} - {None}:
        yield "train", partial(bucket_or_path, str(address), "config.train.copy_to")
    spec = config.evaluate
    if spec.general_text is not None:
        yield "evaluate", partial(_readable, spec.general_text, "config.evaluate.general_text")
    for name, method in spec.names.items():
        where = f"config.evaluate.names.{name}.path"
        if method.path is not None and method.kind == "hf":
            yield "evaluate", partial(_hf_model, method.path)
        elif method.path is not None and method.kind == "scores":
            yield "evaluate", partial(_scores, method.path, where)
        elif method.path is not None:
            yield "evaluate", partial(_run, method.path, where)


def _of_sources(config: Config) -> Iterator[Check]:
    from data_prep.prepare import missing_sources

    def check() -> None:
        if lines := missing_sources(config.corpus_section):
            raise UserError("\n".join(lines))

    yield check


def _tokenizer(source: str) -> None:
    from cprec_jax.hf import adapter, hub
    from cprec_jax.text import tokenizer, tokenizer_files

    if not hub.is_directory(source):
        hub.identity(source)
        return
    directory = adapter.tokenizer_directory(hub.locate(source))
    if not tokenizer_files.has_tokenizer(directory):
        raise UserError(
            f"config.text.tokenizer: {directory} holds no tokenizer; give a directory with tokenizer.json, or 'train'"
        )
    tokenizer.load(directory)


def _general_text(config: Config) -> None:
    from cprec_jax.text import plain_text

    assert config.pack.text is not None
    plain_text.find_files(config.pack.text)


def _base_model(config: Config) -> None:
    """Checks all of a directory but its tensors; of a hub id config.json alone is read."""
    from cprec_jax.hf import adapter, hub
    from cprec_jax.hf.checkpoint_files import read_json
    from cprec_jax.hf.config import parse_config
    from cprec_jax.hf.tokenizer_fit import check_pair
    from cprec_jax.text import tokenizer, tokenizer_files

    source = str(config.model.init_from)
    if not hub.is_directory(source):
        path = hub.config_file(source)
        parse_config(read_json(path), f"{source}: config.json")
        return
    directory = hub.locate(source)
    tokenizer_dir = adapter.tokenizer_directory(directory)
    if config.text.source == source and tokenizer_files.has_tokenizer(tokenizer_dir):
        tokenizer.load(tokenizer_dir)  # a damaged one gives the same message as in `_tokenizer`, so it is said once
    named = [text for text in config.text.new_tokens if "{scope}" not in text]
    _weights(directory, named)
    if config.text.source not in (TRAIN, source) and hub.is_directory(config.text.source):
        check_pair(
            adapter.tokenizer_directory(hub.locate(config.text.source)), adapter.model_directory(directory), named
        )


def _weights(directory: Path, named: Sequence[str] = ()) -> None:
    from cprec_jax.hf.load import check_model

    check_model(directory, named=named)


def _hf_model(path: str) -> None:
    from cprec_jax.hf import hub
    from cprec_jax.hf.checkpoint_files import read_json
    from cprec_jax.hf.config import parse_config

    if hub.is_directory(path):
        _weights(hub.locate(path))
    else:
        parse_config(read_json(hub.config_file(path)), f"{path}: config.json")


def _scores(text: str, where: str) -> None:
    from cprec_jax.methods.score_file import check_header

    check_header(local_path(text, where))


def _run(text: str, where: str) -> None:
    path = local_path(text, where)
    if not path.is_dir():
        raise UserError(f"{where}: {path} is not a directory; give a work directory, or a run in it")


def _readable(text: str, where: str) -> None:
    path = local_path(text, where)
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise UserError(f"{where}: {path}: cannot be read ({error.strerror}); check the path") from error
