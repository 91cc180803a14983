"""Job `export`: a checkpoint -> WORKDIR/export/cpt, a Hugging Face directory."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cprec_jax import workdir as paths
from cprec_jax.config.affects import settings_of
from cprec_jax.config.export import ExportSpec
from cprec_jax.config.root import Config
from cprec_jax.graph import Artefact, Graph
from cprec_jax.parallel import processes
from cprec_jax.run_key import RunKey

VERSION = 1


def artefacts(config: Config, workdir: Path, runs: Sequence[Artefact], results: Sequence[Artefact]) -> list[Artefact]:
    """An export per run that `config.export.runs` names, of its first seed; none where the config has no section for it."""
    return [] if config.export is None else exports(config, workdir, runs, results)


def exports(config: Config, workdir: Path, runs: Sequence[Artefact], results: Sequence[Artefact]) -> list[Artefact]:
    """The exports, also of a config without a section for it: the job alone takes its defaults then."""
    spec = config.export or ExportSpec()
    names = spec.runs or (config.only_run,)
    keys = [RunKey(name=name, part=part) for name in names for part in (config.parts_of(name) if name in config.runs else (None,))]
    return [
        Artefact(
            name=f"export/{key}",
            path=paths.export_directory(workdir, str(key)),
            job="export",
            version=VERSION,
            inputs=tuple(run for run in runs if run.path == key.directory(workdir)),
            shows=tuple(results),
            settings=lambda: settings_of(config, {"export"}),
            facts=lambda: {"order": list(config.evaluate.names), "others": _others(workdir, set(config.evaluate.names))},
        )
        for key in keys
    ]


def _others(workdir: Path, named: set[str]) -> dict[str, str]:
    """Results that the config does not name, which the card shows, too, by content."""
    from cprec_jax.artefact import file_sha256
    from cprec_jax.report.results import result_files

    return {path.parent.name: file_sha256(path) for path in result_files(workdir) if path.parent.name not in named}


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Write the directory. All processes read the model, since it may fit none of them; the first writes."""
    from cprec_jax.hf.export import export

    for one in wanted:
        export(config, workdir, one.path.name, processes.from_first(partial(graph.made_from, one)))
