"""Job `pack`: corpus + tokenizer + template -> WORKDIR/rows/KIND."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cprec_jax import workdir as paths
from cprec_jax.config.affects import settings_of
from cprec_jax.config.root import Config
from cprec_jax.config.rows import RowsKind
from cprec_jax.config.run import rows_kind
from cprec_jax.config.text import TRAIN
from cprec_jax.graph import Artefact, Graph

VERSION = 2  # 2: rows say which items they hold


PRETRAINING = RowsKind(stage="cpt")


def artefacts(config: Config, workdir: Path, corpus: Artefact) -> dict[RowsKind, Artefact]:
    """By kind. Rows for fine-tuning take the tokenizer that was trained for the rows of pre-training, where there are
    any."""
    rows: dict[RowsKind, Artefact] = {}
    for kind in config.rows_kinds:
        takes_tokenizer = kind != PRETRAINING and config.text.source == TRAIN and PRETRAINING in rows
        rows[kind] = Artefact(
            name=f"rows/{kind.name}",
            path=paths.rows_directory(workdir, kind.name),
            job="pack",
            version=VERSION,
            inputs=(corpus, rows[PRETRAINING]) if takes_tokenizer else (corpus,),
            settings=partial(settings_of, config, {"rows", f"rows.{kind.stage}"}),
            files=partial(_files, config, kind),
            facts=partial(_facts, config, kind),
            content=content,
        )
    return rows


def content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the rows that all runs on them depend on. Optional sources count for the runs that read them
    (`for_pretraining`)."""
    return {key: manifest.get(key) for key in ("rows_hash", "tokenizer_hash", "new_tokens")}


def for_pretraining(rows: Artefact, sources: Sequence[str], catalogue: bool) -> Artefact:
    """The rows as the input of a run that reads these optional sources, which count for it, too; for a loss over the
    catalogue all titles count."""
    if not sources and not catalogue:
        return rows

    def with_sources(manifest: Mapping[str, Any]) -> dict[str, Any]:
        hashes, titles = manifest.get("source_hashes", {}), manifest.get("catalogue_hashes", {})
        of_sources = {**content(manifest), **{name: hashes.get(name) for name in sources}}
        return of_sources | ({f"titles of {name}": value for name, value in titles.items()} if catalogue else {})

    return dataclasses.replace(rows, content=with_sources)


def for_fine_tuning(rows: Artefact, sets: Sequence[str], catalogue: bool) -> Artefact:
    """The rows as the input of a run on these sets: their rows alone count, and for a loss over the catalogue all their
    titles, too."""

    def of_sets(manifest: Mapping[str, Any]) -> dict[str, Any]:
        hashes, titles = manifest.get("source_hashes", {}), manifest.get("catalogue_hashes", {})
        of_rows = {key: manifest.get(key) for key in ("tokenizer_hash", "new_tokens")}
        of_rows |= {name: hashes.get(name) for name in sets}
        return of_rows | ({f"titles of {name}": titles.get(name) for name in sets} if catalogue else {})

    return dataclasses.replace(rows, content=of_sets)


def _files(config: Config, kind: RowsKind) -> dict[str, Path]:
    from cprec_jax.hf import hub
    from cprec_jax.text import plain_text, tokenizer_files

    paths_by_key: dict[str, Path] = {}
    if config.text.source != TRAIN and hub.is_directory(config.text.source):
        paths_by_key |= {
            f"config.text.tokenizer: {p.name}": p for p in tokenizer_files.input_files(hub.locate(config.text.source))
        }
    if kind.stage == "cpt" and config.pack.text is not None:
        files = plain_text.find_files(config.pack.text)
        paths_by_key |= {f"config.pack.text: file {number}": path for number, path in enumerate(files, start=1)}
    return paths_by_key


def _facts(config: Config, kind: RowsKind) -> dict[str, Any]:
    """A tokenizer from the hub counts by its commit; whether one is trained; which optional row sources or sets there
    are."""
    from cprec_jax.hf import hub

    source = config.text.source
    tokenizer = TRAIN if source == TRAIN else "given" if hub.is_directory(source) else hub.identity(source)
    needed: dict[str, Any] = {}
    if kind.stage == "cpt" and config.row_sources:
        needed["the optional row sources"] = list(config.row_sources)
    elif kind.stage == "sft":
        named = {name for run in config.runs.values() if rows_kind(run) == kind for name in run.sets or ()}
        needed["the sets that runs name"] = sorted(named)
    return {"config.text.tokenizer": tokenizer, **needed}


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Write the rows of each stage."""
    from cprec_jax.jobs.making.pack import pack

    kinds = {kind.name: kind for kind in config.rows_kinds}
    for rows in wanted:
        pack(config, workdir, kinds[rows.path.name], graph.made_from(rows))
