"""The jobs for tests, from a config as plain dicts, as a config file gives it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.root import make_config
from cprec_jax.graph import Artefact, Graph, State
from cprec_jax.jobs.alone import run_alone
from cprec_jax.jobs.graph_of import graph_of
from cprec_jax.jobs.run import run as run_typed
from cprec_jax.workdir import run_directory

Raw = Mapping[str, Any]


def corpus_spec(config: Raw) -> CorpusSpec:
    return make_config(config).corpus_section


def prepare(config: Raw, workdir: Path) -> None:
    run_alone("prepare", make_config(config), Path(workdir))


def pack(config: Raw, workdir: Path) -> None:
    run_alone("pack", make_config(config), Path(workdir))


def train(config: Raw, workdir: Path) -> None:
    run_alone("train", make_config(config), Path(workdir))


def make_plan(config: Raw, workdir: Path) -> Any:
    """What training fixes before the first step of the first seed."""
    from cprec_jax.train import prepared_run

    return prepared_run.prepare_run(make_config(config), Path(workdir), run_directory(Path(workdir)))


def evaluate(config: Raw, workdir: Path, rows: Sequence[str] | None = None) -> None:
    run_alone("evaluate", make_config(config), Path(workdir), rows)


def export(config: Raw, workdir: Path) -> None:
    run_alone("export", make_config(config), Path(workdir))


def report(config: Raw, workdir: Path) -> None:
    run_alone("report", make_config(config), Path(workdir))


def run(config: Raw, workdir: Path, only: Sequence[str] | None = None) -> None:
    run_typed(make_config(config), Path(workdir), only)


def generate(config: Raw, workdir: Path | None, asked: Mapping[str, str]) -> None:
    from cprec_jax.jobs.making.generate import Request
    from cprec_jax.jobs.making.generate import generate as generate_typed

    generate_typed(make_config(config), workdir, Request(**asked))


def graph(config: Raw, workdir: Path) -> Graph:
    return graph_of(make_config(config), Path(workdir))


def artefact(config: Raw, workdir: Path, name: str) -> tuple[Graph, Artefact]:
    whole = graph(config, workdir)
    return whole, next(one for one in whole.artefacts if one.name == name)


def state(config: Raw, workdir: Path, name: str) -> State:
    """Of the artefact of that name."""
    whole, one = artefact(config, workdir, name)
    return whole.state(one)


def states(config: Raw, workdir: Path) -> dict[str, State]:
    """Of every artefact, by name."""
    whole = graph(config, workdir)
    return {one.name: whole.state(one) for one in whole.artefacts}


def made_from(config: Raw, workdir: Path, name: str) -> dict[str, Any]:
    """What the artefact of that name would be made from now."""
    whole, one = artefact(config, workdir, name)
    return whole.made_from(one)
