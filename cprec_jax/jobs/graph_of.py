"""The graph that a config means in a work directory."""

from pathlib import Path

from cprec_jax.config.root import Config
from cprec_jax.graph import Graph
from cprec_jax.jobs import evaluate, export, pack, prepare, report, train


def graph_of(config: Config, workdir: Path) -> Graph:
    """All artefacts, inputs first. Neither jax nor any file is opened for it."""
    corpus = prepare.artefact(config, workdir)
    rows = pack.artefacts(config, workdir, corpus)
    runs = train.artefacts(config, workdir, rows)
    results = evaluate.artefacts(config, workdir, corpus, runs)
    exports = export.artefacts(config, workdir, runs, results)
    return Graph(
        workdir, [corpus, *rows.values(), *runs, *results, *exports, report.artefact(config, workdir, runs, results)]
    )
