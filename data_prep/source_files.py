"""Where the files of a source are."""

import os
from pathlib import Path
from typing import Literal

from cprec_jax.config.source import SourceSpec
from cprec_jax.errors import UserError, shown
from cprec_jax.paths import refuse_address


def target_paths(root: str, source: SourceSpec, which: str) -> list[Path]:
    """The paths a source gives for its interactions or its items, below `root`, `~` expanded; absent in the config is a
    `UserError`.

    A path is taken as it stands: no character of it is a pattern, and a file of that very name wins over a home
    directory.
    """
    given = getattr(source, which)
    where = f"config.corpus.sources.{source.name}.{which}"
    if not given:
        raise UserError(f"{where}: missing; give the path of the file")
    refuse_address(root, "config.corpus.root")
    paths = []
    for name in (given,) if isinstance(given, str) else given:
        try:
            base = Path(root).expanduser()
            is_there = os.path.exists(base / name)  # and False for a name that no file can have
            if not is_there:
                refuse_address(name, where)
            paths.append(base / name if is_there else base / Path(name).expanduser())
        except RuntimeError:  # "~nobody"
            raise UserError(f"{where}: no such home directory in {name!r} or root {root!r}") from None
    return paths


def target_path(root: str, source: SourceSpec, which: str) -> Path:
    """`target_paths` where only one can be: a list of files is a `UserError`."""
    paths = target_paths(root, source, which)
    if len(paths) > 1:
        raise UserError(
            f"config.corpus.sources.{source.name}.{which}: adapter {source.adapter!r} reads one file here, not "
            f"{len(paths)}"
        )
    return paths[0]


def source_path(root: str, source: SourceSpec, which: Literal["interactions", "items"]) -> Path:
    """`target_path` of a file that must be there; absent on disk is a `UserError`."""
    return _present(target_path(root, source, which), source, which)


def source_paths(root: str, source: SourceSpec, which: Literal["interactions", "items"]) -> list[Path]:
    """`target_paths` of files that must be there. A directory stands for all its `*.parquet`, in the order of their
    names."""
    paths: list[Path] = []
    for path in target_paths(root, source, which):
        paths += _parts(path, source, which) if os.path.isdir(path) else [_present(path, source, which)]
    return paths


def _parts(folder: Path, source: SourceSpec, which: str) -> list[Path]:
    """As Spark and pyarrow read a directory: what begins with "." or "_" is no part. Names of folders say nothing of
    their content."""
    parts = sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(".parquet") and path.name[0] not in "._" and path.is_file()
    )
    where = f"config.corpus.sources.{source.name}.{which}"
    if below := sorted(path for path in folder.glob("*/*.parquet") if path.parent.name[0] not in "._"):
        raise UserError(
            f"{where}: {shown(folder)} has parts in {shown(below[0].parent.name)}, too, and no folder below is read; "
            "list the files"
        )
    if not parts:
        raise UserError(
            f"{where}: {shown(folder)} is a directory without a *.parquet file; give a file, or a list of files"
        )
    return parts


def _present(path: Path, source: SourceSpec, which: str) -> Path:
    if not os.path.isfile(path):
        where = f"config.corpus.sources.{source.name}.{which}"
        fetched = (
            f", or fetch it with config.corpus.download=true from {source.urls[which].url}"
            if which in source.urls
            else ""
        )
        raise UserError(f"{where}: {shown(path)} is not a file; check the path and config.corpus.root{fetched}")
    return path
