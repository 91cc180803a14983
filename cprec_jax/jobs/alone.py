"""One job by itself: it makes its artefacts, whatever their state, from what is there."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cprec_jax.config.build import nearest
from cprec_jax.config.root import Config
from cprec_jax.errors import UserError
from cprec_jax.jobs import export, train
from cprec_jax.jobs.checks import check_paths
from cprec_jax.jobs.graph_of import graph_of
from cprec_jax.jobs.run import make
from cprec_jax.parallel import processes
from cprec_jax.progress import say


def run_alone(job: str, config: Config, workdir: Path, rows: Sequence[str] | None = None) -> None:
    """rows: for `evaluate`, only these results."""
    graph = graph_of(config, workdir)
    wanted = graph.of_job(job)
    if job == "prepare":
        config.corpus_section  # noqa: B018  (raises where the config has none)
    elif job == "train":
        config.train_section  # noqa: B018
        processes.by_first(partial(train.refuse_others, wanted, graph))
    elif job == "export" and not wanted:
        wanted = export.exports(config, workdir, graph.of_job("train"), graph.of_job("evaluate"))
    elif job == "evaluate":
        known = [result.path.name for result in wanted]
        for row in rows or ():
            if row not in known:
                raise UserError(f"--only={row}: no such result in config.evaluate.names{nearest(row, known)}")
        wanted = [result for result in wanted if rows is None or result.path.name in rows]
        (corpus,) = graph.of_job("prepare")
        if graph.state(corpus).changed:
            say(
                f"evaluate: {corpus.path} was made with other settings than config.corpus has "
                f"({graph.state(corpus).reason}), and is taken "
                "as it is; `prepare` makes it anew"
            )
    processes.by_first(partial(check_paths, config, (job,)))
    make(job, config, workdir, wanted, graph)
