"""Job `run`: all jobs. Walks the graph and makes every artefact that is missing or not what the config means."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from cprec_jax.config.root import Config
from cprec_jax.errors import DamagedCheckpoint
from cprec_jax.graph import Artefact, Graph
from cprec_jax.jobs import evaluate, export, pack, prepare, report, train
from cprec_jax.jobs.checks import check_paths
from cprec_jax.jobs.graph_of import graph_of
from cprec_jax.parallel import processes
from cprec_jax.progress import say

Make = Callable[[Config, Path, Sequence[Artefact], Graph], None]
# Made by the first process, while the others wait; the other jobs say themselves who does what.
BY_FIRST = ("prepare", "pack", "report")
MAKE: Mapping[str, Make] = {  # in the order in which they are made
    "prepare": prepare.make,
    "pack": pack.make,
    "train": train.make,
    "evaluate": evaluate.make,
    "export": export.make,
    "report": report.make,
}


def run(config: Config, workdir: Path, only: Sequence[str] | None = None) -> None:
    """Make what is missing or out of date; only: of these artefacts, and of what they are made from."""
    graph = graph_of(config, workdir)
    selected = graph.select(only)
    processes.by_first(partial(check_paths, config))
    for job in MAKE:
        graph.forget()
        names = processes.from_first(partial(_to_make, job, selected, graph))
        if wanted := [artefact for artefact in selected if artefact.name in names]:
            _with_whole_checkpoints(partial(make, job, config, workdir, wanted, graph), config, workdir, graph)


def make(job: str, config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Make artefacts of a job, together with the other processes where there are any."""
    do = partial(MAKE[job], config, workdir, wanted, graph)
    if job in BY_FIRST:
        processes.by_first(do)
    else:
        do()


def _to_make(job: str, selected: Sequence[Artefact], graph: Graph) -> list[str]:
    """The names of the artefacts of a job that are made now. A run that was made from other inputs is set aside."""
    to_make = {artefact.name for artefact in graph.to_make(selected)}
    wanted = [artefact for artefact in selected if artefact.job == job and artefact.name in to_make]
    for artefact in (item for item in selected if item.job == job and not item.always):
        state = graph.state(artefact)
        why = f" ({state.word}{': ' if state.reason else ''}{state.reason})"
        say(f"run: {job}: {artefact.path} {'is made now' + why if artefact in wanted else 'is up to date'}")
    if job == "train":
        for trained in wanted:
            if graph.state(trained).changed:
                train.set_aside(trained)
    return [artefact.name for artefact in wanted]


def _with_whole_checkpoints(job: Callable[[], None], config: Config, workdir: Path, graph: Graph) -> None:
    """Do a job; where it finds a damaged checkpoint, training makes that again first."""
    try:
        job()
    except DamagedCheckpoint as error:
        say(f"run: {error}")
        train.make(config, workdir, graph.of_job("train"), graph)
        graph.forget()
        job()
