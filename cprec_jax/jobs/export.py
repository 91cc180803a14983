"""Job `export`: a checkpoint -> WORKDIR/export/cpt, a Hugging Face directory; the adapter of a run alone ->
WORKDIR/export/cpt.adapter."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cprec_jax import workdir as paths
from cprec_jax.config.affects import settings_of
from cprec_jax.config.export import ExportSpec
from cprec_jax.config.root import Config
from cprec_jax.graph import Artefact, Graph
from cprec_jax.jobs.train import parent_of
from cprec_jax.parallel import processes
from cprec_jax.run_key import RunKey, key_of

VERSION = 1


def artefacts(config: Config, workdir: Path, runs: Sequence[Artefact], results: Sequence[Artefact]) -> list[Artefact]:
    """An export per run that `config.export.runs` names, of its first seed; none where the config has no section for
    it."""
    return [] if config.export is None else exports(config, workdir, runs, results)


def exports(config: Config, workdir: Path, runs: Sequence[Artefact], results: Sequence[Artefact]) -> list[Artefact]:
    """The exports, also of a config without a section for it: the job alone takes its defaults then.

    That of an adapter whose base is a run is made with that run's.
    """
    spec = config.export or ExportSpec()
    names = spec.runs or (config.only_run,)
    keys = [
        RunKey(name=name, part=part)
        for name in names
        for part in (config.parts_of(name) if name in config.runs else (None,))
    ]
    directories: dict[str, Artefact] = {}

    def add(key: RunKey, path: Path, *before: Artefact) -> Artefact:
        inputs = (*(run for run in runs if run.path == key.directory(workdir)), *before)
        return directories.setdefault(path.name, _artefact(config, workdir, path, inputs, results))

    for key in keys:
        forms = spec.lora if key.name in config.runs and config.runs[key.name].lora is not None else ("merged",)
        if "merged" in forms:
            add(key, paths.export_directory(workdir, str(key)))
        if "adapter" in forms:
            base = base_of(config, key)
            before = [] if base is None else [add(base, paths.export_directory(workdir, str(base)))]
            before = [dataclasses.replace(base_export, content=_weights) for base_export in before]
            add(key, paths.adapter_directory(workdir, str(key)), *before)
    return list(directories.values())


def base_of(config: Config, key: RunKey) -> RunKey | None:
    """The run whose model the adapter of a run is added to; None: the base model of the config."""
    parent = parent_of(config, key)
    while parent is not None and config.runs[parent.name].lora is not None:
        parent = parent_of(config, parent)
    return parent


def _weights(manifest: Mapping[str, Any]) -> Any:
    """The part of a base's export that the adapter depends on."""
    return [manifest["params_sha256"], manifest["step"], manifest["dtype"]]


def _artefact(
    config: Config, workdir: Path, path: Path, inputs: tuple[Artefact, ...], results: Sequence[Artefact]
) -> Artefact:
    return Artefact(
        name=f"export/{path.name}",
        path=path,
        job="export",
        version=VERSION,
        inputs=inputs,
        shows=tuple(results),
        settings=lambda: settings_of(config, {"export"}),
        facts=lambda: {"order": list(config.evaluate.names), "others": _others(workdir, set(config.evaluate.names))},
    )


def _others(workdir: Path, named: set[str]) -> dict[str, str]:
    """Results that the config does not name, which the card shows, too, by content."""
    from cprec_jax.artefact import file_sha256

    return {
        path.parent.name: file_sha256(path) for path in paths.result_files(workdir) if path.parent.name not in named
    }


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Write the directories. All processes read the models, since they may fit none of them; the first writes."""
    from cprec_jax.jobs.making.export import export, export_adapter

    for directory in wanted:
        name, made_from = directory.path.name, processes.from_first(partial(graph.made_from, directory))
        if name.endswith(paths.ADAPTER):
            key = key_of(directory.path.with_name(name.removesuffix(paths.ADAPTER)))
            base = base_of(config, key)
            export_adapter(config, workdir, str(key), None if base is None else str(base), made_from)
        else:
            export(config, workdir, name, made_from)
