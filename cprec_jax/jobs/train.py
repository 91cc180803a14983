"""Job `train`: rows -> WORKDIR/runs/NAME[@SET][.seed-I], a run per name, set that is fine-tuned by itself, and seed."""

import dataclasses
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cprec_jax import workdir as paths
from cprec_jax.artefact import MANIFEST, read_json, read_manifest, write_json
from cprec_jax.config.affects import Settings, as_json, settings_of, settings_of_section
from cprec_jax.config.evaluate import MethodSpec
from cprec_jax.config.grid import grid_points
from cprec_jax.config.lora import LoraSpec
from cprec_jax.config.model import ModelSpec
from cprec_jax.config.root import Config
from cprec_jax.config.rows import Reads, RowsKind
from cprec_jax.config.run import RunSpec, StartSpec, rows_kind
from cprec_jax.errors import Preempted, UserError
from cprec_jax.graph import Artefact, Graph
from cprec_jax.jobs.grid import chosen_content, train_grid
from cprec_jax.jobs.pack import for_fine_tuning, for_pretraining
from cprec_jax.parallel import processes
from cprec_jax.progress import say
from cprec_jax.run_key import RunKey, key_of

VERSION = 2  # 2: rows from the sharding, strided micro-batches, a first step that learns


def artefacts(config: Config, workdir: Path, rows: Mapping[RowsKind, Artefact]) -> list[Artefact]:
    """Every run, those that others start from first. Without `config.train`, or without rows, those that are there."""
    if not config.runs or not rows:
        finished = [path for path in paths.run_directories(workdir) if (path / MANIFEST).exists()]
        return [_given(path) for path in finished or [paths.run_directory(workdir)]]
    runs: dict[RunKey, Artefact] = {}
    for name in config.runs:
        for part in config.parts_of(name):
            for seed in range(config.seeds_of(name)):
                key = RunKey(name=name, part=part, seed=seed)
                runs[key] = _artefact(config, workdir, key, rows, runs)
    return list(runs.values())


def _artefact(
    config: Config, workdir: Path, key: RunKey, rows: Mapping[RowsKind, Artefact], runs: Mapping[RunKey, Artefact]
) -> Artefact:
    run = config.runs[key.name]
    path = key.directory(workdir)
    inputs = [_rows_of(config, key, rows[rows_kind(run)])]
    if (parent := parent_of(config, key)) is not None:
        inputs.append(runs[parent])
    if run.grid and key.seed:  # which trains what the first seed chose
        first = runs[dataclasses.replace(key, seed=0)]
        inputs.append(dataclasses.replace(first, content=chosen_content))
    return Artefact(
        name=f"runs/{path.name}",
        path=path,
        job="train",
        version=VERSION,
        inputs=tuple(inputs),
        settings=partial(_settings, config, key),
        files=partial(_files, run.model),
        facts=partial(_facts, run),
        content=_content,
        record=paths.DESCRIPTION,
        progress=partial(_progress, path),
    )


def parent_of(config: Config, key: RunKey) -> RunKey | None:
    """The run that a run starts from: of the same set where there is one per set, of the same seed where there are
    several."""
    parent = config.runs[key.name].parent
    if parent is None:
        return None
    part = None if config.parts_of(parent) == (None,) else key.part
    return RunKey(name=parent, part=part, seed=min(key.seed, config.seeds_of(parent) - 1))


def _rows_of(config: Config, key: RunKey, rows: Artefact) -> Artefact:
    """The rows as an input of a run: only what the run reads of them counts."""
    run = config.runs[key.name]
    catalogue = run.loss.objective == "catalogue" or any(
        point.run.loss.objective == "catalogue" for point in grid_points(run, key.name)
    )
    if run.stage == "cpt":
        return for_pretraining(rows, run.train.row_sources, catalogue)
    return for_fine_tuning(rows, sets_of_run(config, key), catalogue)


def sets_of_run(config: Config, key: RunKey) -> tuple[str, ...]:
    """The sets that one run is fine-tuned on; none for pre-training."""
    return config.sets_of(key.name) if key.part is None else (key.part,)


def _given(path: Path) -> Artefact:
    """A run that the config does not describe."""
    nothing = Settings(values={}, defaults={})
    return Artefact(
        name=f"runs/{path.name}", path=path, job="train", settings=lambda: nothing, content=_content, given=True
    )


def _content(manifest: Mapping[str, Any]) -> Any:
    """The parameters, and which checkpoint the run stands for where that was chosen."""
    selected = manifest.get("selected")
    return manifest["params_sha256"] if selected is None else [manifest["params_sha256"], selected]


def _settings(config: Config, key: RunKey) -> Settings:
    run = config.runs[key.name]
    of_stage = settings_of_section(run.loss, run.stage, ("runs",))
    return settings_of(config.of_run(key.name, key.seed), {"runs"}).joined(of_stage).joined(_lora_settings(run.lora))


def _lora_settings(lora: LoraSpec | None) -> Settings:
    """Those of an adapter, and whether there is one."""
    whether = Settings(values={"lora": None if lora is None else "section"}, defaults={"lora": None})
    return whether if lora is None else whether.joined(settings_of_section(lora, "lora", ("runs",)))


def _files(model: ModelSpec) -> dict[str, Path]:
    """The weights of a base model (of an adapter with its own base) in a directory. One from the hub counts by its
    commit (`_facts`)."""
    from cprec_jax.hf import adapter, hub
    from cprec_jax.hf.checkpoint_files import ADAPTER

    source = model.init_from
    if source is None or not hub.is_directory(source):
        return {}
    directory = hub.locate(source)
    files = list(directory.glob("*.safetensors"))
    if adapter.is_adapter(directory):  # what it is added to counts, too, and how
        files += [directory / ADAPTER, *adapter.base_of(directory).glob("*.safetensors")]
    return {f"config.model.init_from: {path.name}": path for path in sorted(files)}


def _facts(run: RunSpec) -> dict[str, Any]:
    from cprec_jax.hf import hub

    source = run.model.init_from
    facts: dict[str, Any] = (
        {} if source is None or hub.is_directory(source) else {"config.model.init_from": hub.identity(source)}
    )
    if run.goes_on:
        assert isinstance(run.start, StartSpec)
        facts["start"] = {key: value for key, value in vars(run.start).items() if value is not None}
    if run.select != "last":
        facts["select"] = run.select
        if run.stage == "sft" or run.grid:
            facts["select_from"] = run.select_from
    if run.patience is not None:
        facts["patience"] = run.patience
    if run.grid:
        facts["grid"] = as_json(run.grid)
    return facts


def _progress(path: Path) -> str:
    steps = paths.saved_steps(path)
    begun = sorted(paths.grid_directory(path, 0).parent.glob("*"))
    if begun:
        return f"was stopped; {sum((point / MANIFEST).exists() for point in begun)} points of its grid are trained"
    return f"was stopped; goes on from step {max(steps)}" if steps else ""


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Train each to the end, or go on from its newest checkpoint. What others start from is saved on the way, or
    replayed."""
    from cprec_jax.train.trainer import sigterm_flag

    with sigterm_flag() as stop:
        for run in wanted:
            if processes.any_of(stop.is_set()):
                raise Preempted("SIGTERM between two runs; run the same command to go on")
            key = key_of(run.path)
            if len(wanted) > 1 or key.seed:
                say(f"train: {key}, seed {key.seed}, in {run.path}")
            if config.runs[key.name].grid and key.seed == 0 and not processes.from_first((run.path / MANIFEST).exists):
                train_point = partial(_train_run, config, workdir, run, graph, stop)
                made_from = processes.from_first(partial(graph.made_from, run))
                train_grid(config, key, run.path, made_from, train_point, partial(_selected, config, workdir, key))
            else:
                point = chosen_point(config, workdir, key)
                _train_run(config, workdir, run, graph, stop, point=point)
                processes.by_first(partial(_select, config, workdir, run))
            processes.by_first(partial(shutil.rmtree, paths.replaced_directory(run.path), ignore_errors=True))


def chosen_point(config: Config, workdir: Path, key: RunKey) -> int | None:
    """Which point of its grid a run has: that which the first seed chose. None: it has no grid."""
    if not config.runs[key.name].grid:
        return None
    first = dataclasses.replace(key, seed=0).directory(workdir)
    return int(read_json(first / MANIFEST, "train")["chosen"])


def _train_run(
    config: Config,
    workdir: Path,
    run: Artefact,
    graph: Graph,
    stop: threading.Event,
    needed: Sequence[int] = (),
    directory: Path | None = None,
    point: int | None = None,
) -> None:
    """Train one run, to its end or as long as its patience lasts.

    Args:
      needed: steps whose checkpoints stay.
      directory: where it is trained, if not yet in its own.
      point: of its grid.
    """
    from cprec_jax.train.remote_tier import remote_tier
    from cprec_jax.train.start import start_of
    from cprec_jax.train.trainer import train

    key = key_of(run.path)
    name, spec = key.name, config.runs[key.name]
    start = None
    if (before := parent_of(config, key)) is not None:
        parent = next(artefact for artefact in graph.of_job("train") if artefact.path == before.directory(workdir))
        start = start_of(spec, parent.path, name)
        if processes.from_first(lambda: start.step not in paths.saved_steps(parent.path)):
            say(
                f"train: {name} starts from step {start.step} of {parent.path.name}, which was not kept; it is replayed"
            )
            _train_run(config, workdir, parent, graph, stop, [start.step], point=chosen_point(config, workdir, before))
    steps = sorted({*needed, *steps_needed(config, name)})
    fractions = fractions_needed(config, name)
    reads = Reads(kind=rows_kind(spec), sets=sets_of_run(config, key))
    of_run, directory = config.of_run(name, key.seed, point), directory or run.path
    made_from = processes.from_first(partial(graph.made_from, run))
    copy_to = of_run.train_section.copy_to
    train_until = partial(
        train,
        of_run,
        workdir,
        directory,
        made_from,
        stop,
        reads=reads,
        start=start,
        steps=steps,
        fractions=fractions,
        probe=_probe(of_run, workdir, directory, reads.sets),
        remote=remote_tier(copy_to, workdir, directory, made_from, partial(graph.differences, run)),
    )
    if spec.patience is None or processes.from_first((directory / MANIFEST).exists):
        train_until()
    else:
        _train_with_patience(config, workdir, key, directory, spec.patience, train_until)


def _probe(
    config: Config, workdir: Path, directory: Path, sets: Sequence[str]
) -> Callable[[Any], Mapping[str, float]] | None:
    """What ranks validation users while the run trains, in the first process; None: nothing does, or the run is
    finished."""
    if config.train_section.validate_every is None or processes.from_first((directory / MANIFEST).exists):
        return None
    from cprec_jax.methods.probe import ValidationProbe

    opened: list[ValidationProbe] = []  # by the first process alone, which alone has use for it
    processes.by_first(lambda: opened.append(ValidationProbe(config, workdir, directory, sets or None)))
    return lambda params: opened[0](params)


def _train_with_patience(
    config: Config, workdir: Path, key: RunKey, directory: Path, patience: int, train_until: Callable[..., int]
) -> None:
    """Train from checkpoint to checkpoint of `select_from`, until `patience` of them in a row were no better than the
    best before."""
    run = config.runs[key.name]
    best, worse, fraction = None, 0, 1.0
    for fraction in sorted({*run.select_from, 1.0}):
        steps = train_until(until=fraction, ends=False)
        if fraction not in run.select_from:
            continue
        step = max(1, round(fraction * steps))
        (value,) = processes.from_first(partial(_values, config, workdir, key, directory, [step])).values()
        better = best is None or (value > best if run.select == "ndcg@10" else value < best)
        best, worse = (value, 0) if better else (best, worse + 1)
        if worse >= patience:
            break
    if fraction < 1:
        say(f"train: {key}: {worse} checkpoints in a row were no better, so it stops early, and never anneals")
    train_until(until=fraction)


def _values(
    config: Config, workdir: Path, key: RunKey, directory: Path, steps: Sequence[int] | None
) -> dict[int, float]:
    """The measure of checkpoints on validation users of the run's sets, by step."""
    from cprec_jax.methods.select import values_by_step

    run = config.runs[key.name]
    assert run.select != "last"
    return values_by_step(config, workdir, directory, run.select, sets_of_run(config, key) or None, steps)


def fractions_needed(config: Config, name: str) -> list[float]:
    """The fractions of a run at which others start, rows of the table are taken, or from which it is chosen what it
    stands for."""
    spec = config.runs[name]
    fractions: list[float | None] = [
        run.start.fraction for run in config.runs.values() if isinstance(run.start, StartSpec) and run.start.run == name
    ]
    fractions += [row.fraction for row in _rows_of_table(config, name)]
    fractions += spec.select_from if spec.select != "last" else ()
    return sorted({fraction for fraction in fractions if fraction is not None})


def steps_needed(config: Config, name: str) -> list[int]:
    """The steps of a run at which others start, or rows of the table are taken, as numbers."""
    steps = [
        run.start.step for run in config.runs.values() if isinstance(run.start, StartSpec) and run.start.run == name
    ]
    steps += [row.step for row in _rows_of_table(config, name) if isinstance(row.step, int)]
    return sorted({step for step in steps if step is not None})


def save_what_rows_need(config: Config, workdir: Path, results: Sequence[Artefact], graph: Graph) -> None:
    """Replay finished runs to the checkpoints of `fraction` or `step` that rows name and that were not kept."""
    from cprec_jax.train.trainer import sigterm_flag

    runs = {run.name: run for result in results for run in result.inputs if run.job == "train" and not run.given}
    for run in runs.values():
        if missing := processes.from_first(partial(_missing_steps, config, run)):
            key = key_of(run.path)
            steps = ", ".join(map(str, missing))
            say(
                f"train: rows of the table need steps {steps} of {run.path.name}, which were not kept; they are "
                "replayed"
            )
            with sigterm_flag() as stop:
                _train_run(config, workdir, run, graph, stop, missing, point=chosen_point(config, workdir, key))


def _missing_steps(config: Config, run: Artefact) -> list[int]:
    """The steps of a finished run that rows name and that were not kept."""
    manifest = read_manifest(run.path)
    if manifest is None:
        return []
    name = key_of(run.path).name
    last, first = int(manifest["step"]), int(manifest.get("first", 0))
    needed = {*steps_needed(config, name), *(round(fraction * last) for fraction in fractions_needed(config, name))}
    return sorted(step for step in needed - set(paths.saved_steps(run.path)) if first <= step <= last)


def _rows_of_table(config: Config, name: str) -> list[MethodSpec]:
    """The rows of the table that are checkpoints of a run."""
    rows = [row for row in config.evaluate.names.values() if row.kind == "checkpoint" and row.path is None]
    return [row for row in rows if config.run_of_row(row) == name]


def _select(config: Config, workdir: Path, run: Artefact) -> None:
    """Note which checkpoint a run stands for, where its spec asks for a choice."""
    key = key_of(run.path)
    if config.runs[key.name].select == "last":
        return
    manifest = read_manifest(run.path)
    assert manifest is not None
    if "selected" not in manifest:
        write_json(run.path / MANIFEST, {**manifest, **_selected(config, workdir, key, run.path)})


def _selected(config: Config, workdir: Path, key: RunKey, directory: Path) -> dict[str, Any]:
    """`selected`, the step that the run in `directory` stands for, and what each checkpoint that it was chosen from is
    worth."""
    run = config.runs[key.name]
    manifest = read_json(directory / MANIFEST, "train")
    last = int(manifest["step"])
    ends = int(manifest.get("stopped_early_of", last))
    steps = [step for step in (max(1, round(fraction * ends)) for fraction in run.select_from) if step <= last]
    values = _values(config, workdir, key, directory, sorted(set(steps)) if run.stage == "sft" or run.grid else None)
    best = max(values, key=values.__getitem__) if run.select == "ndcg@10" else min(values, key=values.__getitem__)
    what = "an NDCG@10" if run.select == "ndcg@10" else "an NLL"
    say(f"train: {key} stands for step {best}, with {what} of {values[best]:.4f} on validation users")
    name = "ndcg@10_by_step" if run.select == "ndcg@10" else "nll_by_step"
    return {"selected": best, name: {str(step): value for step, value in values.items()}}


def refuse_others(wanted: Sequence[Artefact], graph: Graph) -> None:
    """`UserError` for a run that was made from other inputs: alone, `train` neither mixes nor removes."""
    for run in wanted:
        if changed := graph.state(run).changed:
            raise UserError(
                f"{run.path}: was trained with other inputs ({'; '.join(changed[:4])}); choose another --workdir, "
                "delete that directory, "
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
