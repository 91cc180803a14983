"""Job `train`: rows -> WORKDIR/runs/cpt, one run per seed."""

import shutil
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cprec_jax import workdir as paths
from cprec_jax.artefact import MANIFEST, read_manifest, write_json
from cprec_jax.config.affects import Settings, settings_of
from cprec_jax.config.evaluate import MethodSpec
from cprec_jax.config.model import ModelSpec
from cprec_jax.config.root import Config
from cprec_jax.config.runs import RunSpec, StartSpec
from cprec_jax.errors import Preempted, UserError
from cprec_jax.graph import Artefact, Graph
from cprec_jax.jobs.pack import for_run
from cprec_jax.progress import say

VERSION = 2  # 2: rows from the sharding, strided micro-batches, a first step that learns


def artefacts(config: Config, workdir: Path, rows: Artefact | None) -> list[Artefact]:
    """A run per name and seed, those that others start from first. Without `config.train`, or without rows, those that are there."""
    if not config.runs or rows is None:
        there = [path for path in paths.run_directories(workdir) if (path / MANIFEST).exists()] or [paths.run_directory(workdir)]
        return [_given(path) for path in there]
    made: dict[tuple[str, int], Artefact] = {}
    for name, run in config.runs.items():
        for seed in range(config.seeds_of(name)):
            path = paths.run_directory(workdir, seed, name)
            parent = () if run.parent is None else (made[run.parent, min(seed, config.seeds_of(run.parent) - 1)],)
            made[name, seed] = Artefact(
                name=f"runs/{path.name}",
                path=path,
                job="train",
                version=VERSION,
                inputs=(for_run(rows, run.train.row_sources), *parent),
                settings=partial(_settings, config, name, seed),
                files=partial(_files, run.model),
                facts=partial(_facts, run),
                content=_content,
                record=paths.DESCRIPTION,
                progress=partial(_progress, path),
            )
    return list(made.values())


def _given(path: Path) -> Artefact:
    """A run that the config does not describe."""
    nothing = Settings(values={}, defaults={})
    return Artefact(name=f"runs/{path.name}", path=path, job="train", settings=lambda: nothing, content=_content, given=True)


def _content(manifest: Mapping[str, Any]) -> Any:
    """The parameters, and which checkpoint the run stands for where that was chosen."""
    selected = manifest.get("selected")
    return manifest["params_sha256"] if selected is None else [manifest["params_sha256"], selected]


def _settings(config: Config, name: str, seed: int) -> Settings:
    return settings_of(config.of_run(name, seed), {"runs"})


def _files(model: ModelSpec) -> dict[str, Path]:
    """The weights of a base model in a directory of its own. One from the hub counts by its commit (`_facts`)."""
    from cprec_jax.hf import hub

    source = model.init_from
    if source is None or not hub.is_directory(source):
        return {}
    return {f"config.model.init_from: {path.name}": path for path in sorted(hub.locate(source).glob("*.safetensors"))}


def _facts(run: RunSpec) -> dict[str, Any]:
    from cprec_jax.hf import hub

    source = run.model.init_from
    found: dict[str, Any] = {} if source is None or hub.is_directory(source) else {"config.model.init_from": hub.identity(source)}
    if run.goes_on:
        assert isinstance(run.start, StartSpec)
        found["start"] = {key: value for key, value in vars(run.start).items() if value is not None}
    if run.select != "last":
        found["select"] = run.select
    return found


def _progress(path: Path) -> str:
    steps = paths.saved_steps(path)
    return f"was stopped; goes on from step {max(steps)}" if steps else ""


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Train each to the end, or go on from its newest checkpoint. What others start from is saved on the way, or replayed."""
    from cprec_jax.train.trainer import sigterm_flag

    with sigterm_flag() as stop:
        for run in wanted:
            if stop.is_set():
                raise Preempted("SIGTERM between two runs; run the same command to go on")
            name, seed = name_of(run)
            if len(wanted) > 1 or seed:
                say(f"train: {name}, seed {seed}, in {run.path}")
            _train_one(config, workdir, run, graph, stop)
            _select(config, workdir, run)
            _remove_replaced(run.path)


def _train_one(config: Config, workdir: Path, run: Artefact, graph: Graph, stop: threading.Event, needed: Sequence[int] = ()) -> None:
    from cprec_jax.train.start import start_of
    from cprec_jax.train.trainer import train

    name, seed = name_of(run)
    spec = config.runs[name]
    start = None
    if spec.parent is not None:
        parent = next(one for one in graph.of_job("train") if one in run.inputs)
        start = start_of(spec, parent.path, name)
        if start.step not in paths.saved_steps(parent.path):
            say(f"train: {name} starts from step {start.step} of {parent.path.name}, which was not kept; it is replayed")
            _train_one(config, workdir, parent, graph, stop, [start.step])
    steps = sorted({*needed, *steps_needed(config, name)})
    fractions = fractions_needed(config, name)
    train(config.of_run(name, seed), workdir, run.path, graph.made_from(run), stop, start=start, steps=steps, fractions=fractions)


def fractions_needed(config: Config, name: str) -> list[float]:
    """The fractions of a run at which others start, or rows of the table are taken."""
    found = [run.start.fraction for run in config.runs.values() if isinstance(run.start, StartSpec) and run.start.run == name]
    found += [row.fraction for row in _rows_of(config, name)]
    return sorted({fraction for fraction in found if fraction is not None})


def steps_needed(config: Config, name: str) -> list[int]:
    """The steps of a run at which others start, or rows of the table are taken, as numbers."""
    found = [run.start.step for run in config.runs.values() if isinstance(run.start, StartSpec) and run.start.run == name]
    found += [row.step for row in _rows_of(config, name) if isinstance(row.step, int)]
    return sorted({step for step in found if step is not None})


def save_what_rows_need(config: Config, workdir: Path, results: Sequence[Artefact], graph: Graph) -> None:
    """Replay finished runs to the checkpoints of `fraction` or `step` that rows name and that were not kept."""
    from cprec_jax.train.trainer import sigterm_flag

    runs = {run.name: run for result in results for run in result.inputs if run.job == "train" and not run.given}
    for run in runs.values():
        manifest = read_manifest(run.path)
        if manifest is None:
            continue
        name, _ = name_of(run)
        last, first = int(manifest["step"]), int(manifest.get("first", 0))
        needed = {*steps_needed(config, name), *(round(fraction * last) for fraction in fractions_needed(config, name))}
        if missing := sorted(step for step in needed - set(paths.saved_steps(run.path)) if first <= step <= last):
            steps = ", ".join(map(str, missing))
            say(f"train: rows of the table need steps {steps} of {run.path.name}, which were not kept; they are replayed")
            with sigterm_flag() as stop:
                _train_one(config, workdir, run, graph, stop, missing)


def _rows_of(config: Config, name: str) -> list[MethodSpec]:
    """The rows of the table that are checkpoints of a run."""
    rows = [row for row in config.evaluate.names.values() if row.kind == "checkpoint" and row.path is None]
    return [row for row in rows if config.run_of_row(row) == name]


def _select(config: Config, workdir: Path, run: Artefact) -> None:
    """Note which checkpoint a run stands for, where its spec asks for a choice."""
    name, _ = name_of(run)
    if config.runs[name].select == "last":
        return
    from cprec_jax.evaluate.harness import lowest_nll

    manifest = read_manifest(run.path)
    assert manifest is not None
    best, nll = lowest_nll(config, workdir, run.path)
    say(f"train: {name} stands for step {best}, with an NLL of {nll[best]:.4f} on validation users")
    write_json(run.path / MANIFEST, {**manifest, "selected": best, "nll_by_step": {str(step): value for step, value in nll.items()}})


def name_of(run: Artefact) -> tuple[str, int]:
    """The name of a run and which of its seeds it is."""
    name, _, number = run.path.name.partition(".seed-")
    return name, int(number or 0)


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
