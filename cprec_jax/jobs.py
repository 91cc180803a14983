"""The jobs behind `launch.py`, and `run`: which artefacts are missing or out of date."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cprec_jax.artefact import MANIFEST, is_current, read_json
from cprec_jax.errors import DamagedCheckpoint
from cprec_jax.progress import say

Config = Mapping[str, Any]

# Imports are inside: `prepare` must not wait for jax, nor `report` for tensorflow-datasets.


def prepare(config: Config, workdir: Path) -> None:
    from data_prep.prepare import prepare

    prepare(config, workdir)


def pack(config: Config, workdir: Path) -> None:
    from cprec_jax.text.packing import pack

    pack(config, workdir)


def train(config: Config, workdir: Path) -> None:
    from cprec_jax.train.trainer import train

    train(config, workdir)


def evaluate(config: Config, workdir: Path, names: Sequence[str] | None = None) -> None:
    from cprec_jax.evaluate.harness import evaluate
    from data_prep.prepare import is_of_config

    folder = workdir / "corpus"
    if "corpus" in config and not is_of_config(config, read_json(folder / MANIFEST, "prepare")):
        say(f"evaluate: {folder} was made with other settings than config.corpus has, and is taken as it is; `prepare` makes it anew")
    evaluate(config, workdir, names)


def export(config: Config, workdir: Path) -> None:
    from cprec_jax.hf.export import export

    export(config, workdir)


def generate(config: Config, workdir: Path | None, asked: Mapping[str, str]) -> None:
    from cprec_jax.generate.job import Request, generate

    generate(config, workdir, Request(**asked))


def report(config: Config, workdir: Path) -> None:
    from cprec_jax.report.report import report

    report(config, workdir)


def run(config: Config, workdir: Path) -> None:
    """The whole road. An artefact is kept when it was made from just these inputs (compared by hash)."""
    from cprec_jax.evaluate import harness
    from cprec_jax.hf.export import export_inputs
    from cprec_jax.text import packing
    from cprec_jax.train import run as runs
    from cprec_jax.train import trainer
    from data_prep.prepare import prepare_inputs

    if _stale("prepare", workdir / "corpus", prepare_inputs(config, workdir)):
        prepare(config, workdir)
    for stage in packing.stages(config):
        if _stale("pack", workdir / "rows" / stage, packing.pack_inputs(config, workdir, stage)):
            packing.pack(config, workdir, only=stage)
    if "train" in config:
        stale = [
            number
            for number in range(runs.seeds(config))
            if _stale("train", runs.run_directory(workdir, number), trainer.train_inputs(runs.of_seed(config, number), workdir))
        ]
        if stale:
            trainer.train(config, workdir, restart=True, only=stale)
    names = []
    for name in harness.result_names(config):
        directory, inputs = harness.result_directory(config, workdir, name), harness.evaluate_inputs(config, workdir, name)
        if _stale("evaluate", directory, inputs, harness.is_current):
            names.append(name)
    if names:
        _with_whole_checkpoints(lambda: evaluate(config, workdir, names), config, workdir)
    if "export" in config and _stale("export", workdir / "export" / runs.STAGE, export_inputs(config, workdir)):
        _with_whole_checkpoints(lambda: export(config, workdir), config, workdir)
    report(config, workdir)


def _with_whole_checkpoints(job: Callable[[], None], config: Config, workdir: Path) -> None:
    """Do a job; where it finds a damaged checkpoint, training makes that again first."""
    try:
        job()
    except DamagedCheckpoint as error:
        say(f"run: {error}")
        train(config, workdir)
        job()


def _stale(job: str, path: Path, inputs: Mapping[str, Any], judge: Callable[[Path, Mapping[str, Any]], bool] = is_current) -> bool:
    current = judge(path, inputs)
    say(f"run: {job}: {path} {'is up to date' if current else 'is made now'}")
    return not current
