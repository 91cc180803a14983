"""Job `pack`: corpus + tokenizer + template -> WORKDIR/rows/STAGE."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cprec_jax import workdir as paths
from cprec_jax.config.affects import settings_of
from cprec_jax.config.pack import Stage
from cprec_jax.config.root import Config
from cprec_jax.config.text import TRAIN
from cprec_jax.graph import Artefact, Graph

VERSION = 2  # 2: rows say which items they hold


def artefacts(config: Config, workdir: Path, corpus: Artefact) -> dict[Stage, Artefact]:
    """By stage. Rows for fine-tuning take the tokenizer that was trained for those of pre-training."""
    made: dict[Stage, Artefact] = {}
    for stage in config.pack.stages:
        before = (made["cpt"],) if stage != "cpt" and config.text.source == TRAIN and "cpt" in made else ()
        made[stage] = Artefact(
            name=f"rows/{stage}",
            path=paths.rows_directory(workdir, stage),
            job="pack",
            version=VERSION,
            inputs=(corpus, *before),
            settings=partial(settings_of, config, {"rows", f"rows.{stage}"}),
            files=partial(_files, config, stage),
            facts=partial(_facts, config, stage),
            content=content,
        )
    return made


def content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of the rows counts for whatever is made from them. Optional sources count for the runs that ask for them (`for_run`)."""
    return {key: manifest.get(key) for key in ("rows_hash", "tokenizer_hash", "new_tokens")}


def for_run(rows: Artefact, sources: Sequence[str]) -> Artefact:
    """The rows as the input of a run that asks for these optional sources, which count for it, too."""
    if not sources:
        return rows

    def with_sources(manifest: Mapping[str, Any]) -> dict[str, Any]:
        hashes = manifest.get("source_hashes", {})
        return {**content(manifest), **{name: hashes.get(name) for name in sources}}

    return dataclasses.replace(rows, content=with_sources)


def _files(config: Config, stage: Stage) -> dict[str, Path]:
    from cprec_jax.hf import hub
    from cprec_jax.text import plain_text, tokenizer_files

    found: dict[str, Path] = {}
    if config.text.source != TRAIN and hub.is_directory(config.text.source):
        found |= {f"config.text.tokenizer: {p.name}": p for p in tokenizer_files.input_files(hub.locate(config.text.source))}
    if stage == "cpt" and config.pack.text is not None:
        files = plain_text.find_files(config.pack.text)
        found |= {f"config.pack.text: file {number}": path for number, path in enumerate(files, start=1)}
    return found


def _facts(config: Config, stage: Stage) -> dict[str, Any]:
    """A tokenizer from the hub counts by its commit; whether one is trained; which optional row sources there are."""
    from cprec_jax.hf import hub

    source = config.text.source
    tokenizer = TRAIN if source == TRAIN else "given" if hub.is_directory(source) else hub.identity(source)
    asked = {"the optional row sources": list(config.row_sources)} if stage == "cpt" and config.row_sources else {}
    return {"config.text.tokenizer": tokenizer, **asked}


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Write the rows of each stage."""
    from cprec_jax.text.packing import pack

    for rows in wanted:
        pack(config, workdir, _stage(rows), graph.made_from(rows))


def _stage(rows: Artefact) -> Stage:
    return "cpt" if rows.path.name == "cpt" else "sft"
