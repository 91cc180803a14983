"""Job `train`: rows -> WORKDIR/runs/cpt, one run per seed."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cprec_jax import workdir as paths
from cprec_jax.artefact import MANIFEST
from cprec_jax.config.affects import Settings, settings_of
from cprec_jax.config.root import Config
from cprec_jax.errors import Preempted, UserError
from cprec_jax.graph import Artefact, Graph
from cprec_jax.progress import say

VERSION = 2  # 2: rows from the sharding, strided micro-batches, a first step that learns


def artefacts(config: Config, workdir: Path, rows: Artefact | None) -> list[Artefact]:
    """A run per seed. Without `config.train`, or without rows, those that are there."""
    given = config.train is None or rows is None
    return [
        Artefact(
            name=f"runs/{path.name}",
            path=path,
            job="train",
            version=VERSION,
            inputs=() if rows is None else (rows,),
            settings=partial(_settings, config, number),
            files=lambda: _files(config),
            facts=lambda: _facts(config),
            content=lambda manifest: manifest["params_sha256"],
            record=paths.DESCRIPTION,
            progress=partial(_progress, path),
            given=given,
        )
        for number in range(config.seeds)
        if (path := paths.run_directory(workdir, number)).exists() or not given or number == 0
    ]


def _settings(config: Config, number: int) -> Settings:
    return settings_of(config.of_seed(number), {"runs"})


def _files(config: Config) -> dict[str, Path]:
    """The weights of a base model in a directory of its own. One from the hub counts by its commit (`_facts`)."""
    from cprec_jax.hf import hub

    source = config.model.init_from
    if source is None or not hub.is_directory(source):
        return {}
    return {f"config.model.init_from: {path.name}": path for path in sorted(hub.locate(source).glob("*.safetensors"))}


def _facts(config: Config) -> dict[str, Any]:
    from cprec_jax.hf import hub

    source = config.model.init_from
    return {} if source is None or hub.is_directory(source) else {"config.model.init_from": hub.identity(source)}


def _progress(path: Path) -> str:
    steps = [int(p.name) for p in (path / "checkpoints").glob("*") if p.name.isdigit()]
    return f"was stopped; goes on from step {max(steps)}" if steps else ""


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Train each to the end, or go on from its newest checkpoint. Runs made from other inputs are a `UserError` that says what differs."""
    from cprec_jax.train.trainer import sigterm_flag, train

    with sigterm_flag() as stop:
        for run in wanted:
            if stop.is_set():
                raise Preempted("SIGTERM between two runs; run the same command to go on")
            number = seed_of(run)
            if len(wanted) > 1 or number:
                say(f"train: seed {number}, in {run.path}")
            train(config.of_seed(number), workdir, run.path, graph.made_from(run), stop)
            _remove_replaced(run.path)


def seed_of(run: Artefact) -> int:
    """Which of several seeds a run is."""
    _, _, number = run.path.name.partition(".seed-")
    return int(number or 0)


def refuse_others(wanted: Sequence[Artefact], graph: Graph) -> None:
    """`UserError` for a run that was made from other inputs: alone, `train` neither mixes nor removes."""
    for run in wanted:
        if changed := graph.state(run).changed:
            raise UserError(
                f"{run.path}: was trained with other inputs ({'; '.join(changed[:4])}); choose another --workdir, delete that directory, "
                "or use `launch.py run`, which sets it aside"
            )


def set_aside(run: Artefact) -> None:
    """Move a run whose inputs changed to runs/NAME.replaced, where it stays until its successor is done.

    Of several the newest finished one stays: one that was stopped replaces none that is finished.
    """
    if not run.path.exists():
        return
    target = paths.replaced_directory(run.path)
    if (target / MANIFEST).exists() and not (run.path / MANIFEST).exists():
        shutil.rmtree(run.path)
        return
    shutil.rmtree(target, ignore_errors=True)
    run.path.rename(target)
    say(f"train: {run.path} was made from other inputs; it is set aside as {target.name} until the new one is done")


def _remove_replaced(path: Path) -> None:
    import jax

    if jax.process_index() == 0:
        shutil.rmtree(paths.replaced_directory(path), ignore_errors=True)
