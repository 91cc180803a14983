"""Job `report`: everything a work directory has measured -> WORKDIR/report."""

from collections.abc import Sequence
from pathlib import Path

from cprec_jax import workdir as paths
from cprec_jax.artefact import MANIFEST
from cprec_jax.config.affects import settings_of
from cprec_jax.config.root import Config
from cprec_jax.graph import Artefact, Graph

VERSION = 2
OF_RESULTS = (paths.RESULTS_FILE, paths.RANKS_FILE, paths.EXAMPLES_FILE)  # what it reads of a result


def artefact(config: Config, workdir: Path, runs: Sequence[Artefact], results: Sequence[Artefact]) -> Artefact:
    split = config.evaluate.split
    return Artefact(
        name=paths.report_directory(workdir, split).name,
        path=paths.report_directory(workdir, split),
        job="report",
        version=VERSION,
        shows=(*runs, *results),
        settings=lambda: settings_of(config, {"report"}),
        files=lambda: _files(workdir, split),
        facts=lambda: {"order": list(config.evaluate.names)},
        always=True,
    )


def _files(workdir: Path, split: str) -> dict[str, Path]:
    """All results of the split, also those that the config does not name, the metrics of all runs, and the corpus
    manifest."""
    files = [path for name in OF_RESULTS for path in paths.results_directory(workdir, split).glob(f"*/{name}")]
    files += [path for run in paths.run_directories(workdir) if (path := run / paths.METRICS).exists()]
    files += [path for path in (paths.corpus_directory(workdir) / MANIFEST,) if path.exists()]
    return {str(path.relative_to(workdir)): path for path in sorted(files)}


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Write the report, and print the main table."""
    from cprec_jax.report.report import report

    for page in wanted:
        report(config, workdir, graph.made_from(page))
