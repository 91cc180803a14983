"""The grid of a run: its first seed trains every point, validation users choose one, and that is the run."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cprec_jax.artefact import MANIFEST, read_manifest, write_json
from cprec_jax.config.grid import grid_points
from cprec_jax.config.root import Config
from cprec_jax.parallel import processes
from cprec_jax.progress import say
from cprec_jax.run_key import RunKey
from cprec_jax.workdir import grid_directory


class TrainPoint(Protocol):
    def __call__(self, *, directory: Path, point: int) -> None: ...


def chosen_content(manifest: Mapping[str, Any]) -> Any:
    """The part of a first seed that the others depend on: which point of the grid it chose."""
    return manifest["chosen"]


def train_grid(
    config: Config,
    key: RunKey,
    target: Path,
    made_from: Mapping[str, Any],
    train_point: TrainPoint,
    select: Callable[[Path], dict[str, Any]],
) -> None:
    """Train what is not there of all points, choose one by what its selected checkpoint is worth, and make it the run
    `target`.

    A run that was stopped goes on where it was. The manifest gets `chosen`, the number of the point, and `tried`, all
    of them with what they are worth.
    """
    run = config.runs[key.name]
    points = grid_points(run, f"config.runs.{key.name}")
    tried = []
    for number, point in enumerate(points):
        directory = grid_directory(target, number)
        processes.by_first(partial(_remove_others, directory, made_from))
        manifest = processes.from_first(partial(read_manifest, directory))
        if manifest is None or "selected" not in manifest:
            values = ", ".join(f"{name} {value}" for name, value in point.values.items())
            say(f"train: {key}, point {number + 1} of {len(points)}: {values}")
            train_point(directory=directory, point=number)
            manifest = processes.from_first(partial(_with_selection, directory, select))
        by_step = manifest["ndcg@10_by_step" if run.select == "ndcg@10" else "nll_by_step"]
        tried.append(
            {"values": point.values, "selected": manifest["selected"], run.select: by_step[str(manifest["selected"])]}
        )
    best = (max if run.select == "ndcg@10" else min)(range(len(points)), key=lambda number: tried[number][run.select])
    say(
        f"train: {key} is point {best + 1} of {len(points)}: "
        f"{', '.join(f'{k} {v}' for k, v in points[best].values.items())}"
    )
    processes.by_first(partial(_become_run, target, best, tried))


def _with_selection(directory: Path, select: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The manifest of a trained point, with the checkpoint that was selected of it."""
    manifest = {**(read_manifest(directory) or {}), **select(directory)}
    write_json(directory / MANIFEST, manifest)
    return manifest


def _become_run(target: Path, best: int, tried: Sequence[Mapping[str, Any]]) -> None:
    """Make the best point the run, and remove the others."""
    chosen = grid_directory(target, best)
    write_json(chosen / MANIFEST, {**(read_manifest(chosen) or {}), "chosen": best, "tried": tried})
    shutil.rmtree(target, ignore_errors=True)
    chosen.rename(target)
    shutil.rmtree(chosen.parent, ignore_errors=True)


def _remove_others(directory: Path, made_from: Mapping[str, Any]) -> None:
    """Remove what was begun with other inputs."""
    from cprec_jax.train.description import made_from_of

    if directory.exists() and made_from_of(directory) != dict(made_from):
        shutil.rmtree(directory)
