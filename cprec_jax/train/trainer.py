"""Trains one run: rows -> checkpoints. Builds what its loop needs (`loop.py`), and restores what was saved."""

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from cprec_jax import artefact
from cprec_jax.attempts import Ledger
from cprec_jax.config.help import written
from cprec_jax.config.root import Config
from cprec_jax.config.rows import Reads
from cprec_jax.errors import UserError
from cprec_jax.launcher import step_file
from cprec_jax.parallel import processes
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.paths import local_path
from cprec_jax.progress import say
from cprec_jax.train.actions import Clock, Log, Profile, Save, Stop, with_flags
from cprec_jax.train.batches import global_batches
from cprec_jax.train.checkpoint import BASE, Checkpoints, check_base
from cprec_jax.train.description import write_description
from cprec_jax.train.fingerprint import parameters_sha256
from cprec_jax.train.initial_state import initial_state, say_what_is_trained, trained_axes
from cprec_jax.train.leaves import Leaves, merge
from cprec_jax.train.local_tier import LocalTier
from cprec_jax.train.loggers.logger import LoggedRun, Logger
from cprec_jax.train.loggers.registry import open_loggers
from cprec_jax.train.loop import Step, train_loop
from cprec_jax.train.lora import as_read
from cprec_jax.train.objectives.make import make_objective
from cprec_jax.train.objectives.objective import Objective
from cprec_jax.train.optimizer import make_optimizer
from cprec_jax.train.prepared_run import PRETRAINING, PreparedRun, prepare_run
from cprec_jax.train.remote_tier import RemoteTier
from cprec_jax.train.schedule import wsa
from cprec_jax.train.start import Start
from cprec_jax.train.state import TrainState, abstract, shardings_of
from cprec_jax.train.step import train_step
from cprec_jax.train.validate import Probe, Validate
from cprec_jax.workdir import saved_steps


def train(
    config: Config,
    workdir: Path,
    directory: Path,
    made_from: Mapping[str, Any],
    stop: threading.Event,
    *,
    reads: Reads = PRETRAINING,
    start: Start | None = None,
    steps: Collection[int] = (),
    fractions: Collection[float] = (),
    probe: Probe | None = None,
    until: float = 1.0,
    ends: bool = True,
    remote: RemoteTier | None = None,
) -> int:
    """Train the run `directory` from its newest checkpoint, or from the start, to its last step.

    A finished run is replayed as far as a checkpoint is missing that was to stay, and is otherwise left as it is.

    Args:
      config: of one run.
      made_from: what the run is made from; it is written into the run's description before the first step. The caller
        checks that a run that was begun is made from the same.
      stop: when it is set, the run saves and raises `Preempted` after the next step.
      reads: the rows that it reads.
      start: the checkpoint of another run that it starts from.
      steps, fractions: steps, also as fractions of the run, whose checkpoints stay in addition to its milestones.
      probe: computes values of its parameters, after every `config.train.validate_every`-th step and after the last.
      until: the fraction of its steps after which it stops.
      ends: whether the run counts as finished then; else it can be trained further.
      remote: where its checkpoints are copied, and brought back from.

    Returns the number of steps of the whole run.
    """
    prepared = prepare_run(config, workdir, directory, start, reads)
    mesh = make_mesh(**vars(config.mesh))
    say_what_is_trained(prepared)
    _check_micro_batches(prepared, mesh)
    if remote is not None:
        processes.by_first(remote.refuse_another_run)
    processes.by_first(functools.partial(_describe, prepared, config, made_from, reads))
    if remote is not None:
        processes.by_first(remote.bring_back)
    finished = processes.from_first((directory / artefact.MANIFEST).exists)
    kept = processes.from_first(lambda: saved_steps(directory)) if finished else []  # a replay removes none
    until_step = prepared.first + max(1, round(until * (prepared.total_steps - prepared.first)))
    milestones = _milestones(prepared, [*kept, *steps, until_step], fractions)
    inputs_hash = artefact.fingerprint(made_from)
    noted = prepared.directory if processes.is_first() and not finished else None  # a replay adds nothing to a run
    copying = contextlib.nullcontext() if remote is None else remote
    with Ledger(noted, processes.count(), jax.device_count()) as ledger, jax.set_mesh(mesh), copying:
        final, frozen, base_sha256 = _loop(
            prepared, mesh, stop, inputs_hash, milestones, until_step, probe, ledger, remote
        )
    if ends or finished:
        _finish(prepared, final, _sha256(final, frozen, base_sha256), finished, made_from, remote)
    return prepared.total_steps


def _milestones(prepared: PreparedRun, steps: Collection[int], fractions: Collection[float]) -> list[int]:
    """The steps whose checkpoints stay, ascending: the first, `steps`, and those at fractions of the run."""
    of_fractions = (round(part * prepared.total_steps) for part in (*prepared.train.milestones, *fractions))
    stay = {prepared.first, *steps, *of_fractions}
    return sorted(step for step in stay if prepared.first <= step <= prepared.total_steps)


def _check_micro_batches(prepared: PreparedRun, mesh: jax.sharding.Mesh) -> None:
    batch_devices = mesh.shape["data"] * mesh.shape["fsdp"]
    micro = prepared.train.global_batch // prepared.train.micro_batches
    if micro % batch_devices:
        raise UserError(
            f"config.train.global_batch: {micro} rows per micro-batch do not divide over {batch_devices} devices; "
            "choose a multiple"
        )


def _finish(
    prepared: PreparedRun,
    final: TrainState,
    params_sha256: str,
    finished: bool,
    made_from: Mapping[str, Any],
    remote: RemoteTier | None,
) -> None:
    """Write the manifest. finished: whether the run was finished before, so that this was at most a replay."""
    facts: dict[str, Any] = {
        "step": int(final.step),
        "first": prepared.first,
        "params_sha256": params_sha256,
    }
    if int(final.step) < prepared.total_steps and not finished:
        facts["stopped_early_of"] = prepared.total_steps
    if finished:  # what was noted of it stays, and of one that was replayed that it is what it was
        before = artefact.read_json(prepared.directory / artefact.MANIFEST, "train")
        replayed = int(final.step) < prepared.total_steps
        facts = {key: value for key, value in before.items() if key not in artefact.OF_EVERY_MANIFEST} | (
            {} if replayed else facts
        )
    processes.by_first(functools.partial(artefact.write_manifest, prepared.directory, made_from, facts))
    copy = "" if remote is None or remote.failure is None else f"; its last copy was not made ({remote.failure})"
    say(f"train: done, {facts['step']} steps, parameters sha256 {facts['params_sha256'][:16]}{copy}")


def _describe(prepared: PreparedRun, config: Config, made_from: Mapping[str, Any], reads: Reads) -> None:
    """Write the run's description, and for a base model the files that export needs of it."""
    prepared.directory.mkdir(parents=True, exist_ok=True)
    write_description(prepared.directory, prepared.decoder.config, config, made_from, reads)
    if prepared.init_from is not None:
        from cprec_jax.hf import base

        base.keep(prepared.init_from, prepared.rows / "tokenizer", prepared.directory / base.DIRECTORY)


def _sha256(final: TrainState, frozen: Leaves, base_sha256: str | None) -> str:
    """The hash of all parameters; with an adapter that of the adapter's hash and the base's."""
    if base_sha256 is None:
        return parameters_sha256(merge(final.trained, frozen))
    return artefact.fingerprint({"adapter": parameters_sha256(final.trained), "base": base_sha256})


def _loop(
    prepared: PreparedRun,
    mesh: jax.sharding.Mesh,
    flag: threading.Event,
    inputs_hash: str,
    milestones: Sequence[int],
    until: int,
    probe: Probe | None,
    ledger: Ledger,
    remote: RemoteTier | None,
) -> tuple[TrainState, Leaves, str | None]:
    """Train from the newest checkpoint, or from the start, to step `until`. Returns the last state, the frozen leaves,
    and with an adapter the base's hash."""
    spec, total_steps = prepared.train, prepared.total_steps
    optimizer = make_optimizer(spec.optimizer, _schedule(prepared), trained_axes(prepared))
    state, frozen = initial_state(prepared, mesh, optimizer)
    checkpoints = Checkpoints(prepared.directory / "checkpoints", spec.keep, milestones)
    near = _near_tier(prepared, inputs_hash)
    facts = {"inputs_hash": inputs_hash}
    with ledger.phase("restore"):
        frozen = _kept_frozen(prepared, checkpoints, frozen, facts)
        restored, last_step = _restore(prepared, checkpoints, abstract(state), milestones)
        finished = artefact.read_manifest(prepared.directory)
        # A replay was logged the first time.
        logging = last_step == (total_steps if finished is None else int(finished["step"]))
        if near is not None and logging:
            restored = _restore_near(near, restored, abstract(state))
    last_step = min(last_step, until)
    state, meta = _going_on(prepared, state, restored, facts.get(BASE), checkpoints)
    first_step = int(state.step)
    step_file.note(first=first_step)
    clock = Clock(meta["seconds"])
    loggers = _loggers(prepared, first_step, facts) if logging else []
    log = Log(loggers, clock, spec.log_every, first_step, total_steps, int(meta["tokens"]), checkpoints.directory)
    save = Save(
        checkpoints, spec.checkpoint_every, milestones, total_steps, log, clock, facts, near, spec.near_every, remote
    )
    if restored is None:
        ledger.turn_to("save")
        save(state)
        checkpoints.verify(state)  # a disk that gives back something else is better known now than after a week
    objective = _objective(prepared)
    stop = Stop(flag, checkpoints, total_steps, remote)
    state = train_loop(
        state,
        frozen,
        global_batches(prepared, mesh, first_step, last_step, objective, stop),
        _compiled_step(prepared, objective, optimizer, state, frozen),
        log=log,
        save=save,
        stop=stop,
        profile=Profile(spec.profile_window, prepared.directory / "profile"),
        validate=_validate(prepared, probe, mesh, ledger) if logging else None,
        ledger=ledger,
    )
    ledger.turn_to("save")
    if first_step < last_step:
        _verify_last(checkpoints, state, save if logging else None)
    _close(checkpoints, near, remote, flag)
    return state, frozen, facts.get(BASE)


def _close(checkpoints: Checkpoints, near: LocalTier | None, remote: RemoteTier | None, flag: threading.Event) -> None:
    """Wait for what is saved in the background, in every tier."""
    checkpoints.close()
    if near is not None:
        near.clear()
    if remote is not None:
        remote.finish(flag.is_set)


def _loggers(prepared: PreparedRun, first_step: int, facts: Mapping[str, Any]) -> list[Logger]:
    directory, spec = prepared.directory, prepared.train
    facts = {**facts, **written(spec)}
    return open_loggers(
        spec.loggers, LoggedRun(directory=directory, first_step=first_step, name=directory.name, facts=facts)
    )


def _objective(prepared: PreparedRun) -> Objective:
    rows, chunk = prepared.rows, prepared.train.loss_chunk
    return make_objective(prepared.loss, prepared.decoder, chunk, rows, prepared.splits, prepared.corpus, prepared.sets)


def _near_tier(prepared: PreparedRun, inputs_hash: str) -> LocalTier | None:
    near = prepared.train.near
    return None if near is None else LocalTier(local_path(near, "config.train.near"), prepared.directory, inputs_hash)


def _kept_frozen(prepared: PreparedRun, checkpoints: Checkpoints, frozen: Leaves, facts: dict[str, Any]) -> Leaves:
    """The frozen leaves as they were saved. With an adapter they are its base: its hash is added to `facts`, which
    every checkpoint holds."""
    frozen = checkpoints.keep_frozen(frozen)
    if prepared.decoder.adapters is None:
        return frozen
    facts[BASE] = parameters_sha256(frozen)
    return as_read(frozen, prepared.decoder.dtype)


def _validate(prepared: PreparedRun, probe: Probe | None, mesh: jax.sharding.Mesh, ledger: Ledger) -> Validate | None:
    every, adapters = prepared.train.validate_every, prepared.decoder.adapters
    if probe is None or every is None:
        return None
    return Validate(probe, every, prepared.total_steps, mesh, None if adapters is None else adapters.scale, ledger)


def _going_on(
    prepared: PreparedRun, state: TrainState, restored: Any, base_sha256: str | None, checkpoints: Checkpoints
) -> tuple[TrainState, Any]:
    """The state to train from, and its meta: the restored one, that of the run it goes on with, or the new one."""
    if restored is not None:
        check_base(restored[1], base_sha256, str(checkpoints.directory))
        say(f"train: going on from step {int(restored[0].step)} of {prepared.total_steps}")
        return restored
    if prepared.start is not None and prepared.start.goes_on:
        restored_start = _state_of(prepared.start, abstract(state))
        check_base(restored_start[1], base_sha256, str(prepared.start.directory))
        say(
            f"train: going on from step {prepared.first} of {prepared.start.directory.name} to step "
            f"{prepared.total_steps}"
        )
        return restored_start
    return state, {"tokens": 0, "seconds": 0.0}


def _compiled_step(
    prepared: PreparedRun,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    frozen: Leaves,
) -> Step:
    """The jitted train step for a state sharded like `state`. It donates the state."""
    pure_step: Step = functools.partial(
        train_step,
        objective=objective,
        optimizer=optimizer,
        schedule=_schedule(prepared),
        micro_batches=prepared.train.micro_batches,
        dropout_seed=prepared.train.seed if prepared.decoder.drops else None,
    )
    shardings = shardings_of(state)
    in_shardings = (shardings, shardings_of(frozen), None)
    if processes.count() > 1:
        pure_step = with_flags(pure_step)
    return jax.jit(pure_step, in_shardings=in_shardings, out_shardings=(shardings, None), donate_argnums=0)


def _restore(
    prepared: PreparedRun, checkpoints: Checkpoints, abstract: TrainState, milestones: Sequence[int]
) -> tuple[Any, int]:
    """The checkpoint to train from (None: there is none), and the step to train to.

    That is the newest whole checkpoint and the end. For a finished run without some of its `milestones` it is the
    newest checkpoint before them and the last of them.
    """
    restored = checkpoints.restore_newest(abstract)
    manifest = artefact.read_manifest(prepared.directory)
    if restored is None or manifest is None:
        return restored, prepared.total_steps
    checkpoints.set_aside_damaged(abstract)
    newest = int(restored[0].step)
    lost = [step for step in milestones if step < newest and step not in checkpoints.steps()]
    if not lost:
        return restored, int(manifest["step"])
    say(f"train: checkpoints of steps {', '.join(map(str, lost))} are missing; they are made again")
    return checkpoints.restore_newest(abstract, at_most=lost[0]), lost[-1]


def _restore_near(near: LocalTier, restored: Any, abstract: TrainState) -> Any:
    """The near tier's checkpoint where it is newer than the durable one, else the durable one.

    Without a durable one the run is new, or was removed: the near tier is cleared.
    """
    if restored is None:
        near.clear()
        return None
    return near.restore_newest(abstract, above=int(restored[0].step)) or restored


def _state_of(start: Start, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The whole state of a checkpoint of another run, and its meta."""
    checkpoints = Checkpoints(start.directory / "checkpoints", read_only=True)
    restored = checkpoints.restore_step(start.step, abstract)
    checkpoints.close()
    return restored


def _schedule(prepared: PreparedRun) -> optax.Schedule:
    """The learning rate by step; steps are counted from 0, and the schedule begins at `prepared.first`."""
    schedule = wsa(prepared.train.schedule, prepared.total_steps - prepared.first)
    return schedule if prepared.first == 0 else lambda step: schedule(step - prepared.first)


def _verify_last(checkpoints: Checkpoints, state: TrainState, save: Callable[[TrainState], None] | None) -> None:
    """Check that the last checkpoint can be read and holds this state. Raises `UserError` where it does not.

    One of an earlier attempt that differs from this state is set aside and saved again, but not in a replay (save:
    None).
    """
    if save is not None and int(state.step) not in checkpoints.saved:
        try:
            checkpoints.verify(state)
            return
        except UserError:
            say(
                f"warning: step {int(state.step)} did not come out bit-identically this time (other devices?); "
                "evaluate and export again"
            )
            checkpoints.set_aside(int(state.step))
            save(state)
    checkpoints.verify(state)


@contextlib.contextmanager
def sigterm_flag() -> Iterator[threading.Event]:
    """An event that is set when SIGTERM (preemption) arrives while the block runs.

    Outside the main thread it is never set.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.signal(signal.SIGTERM, lambda *_: flag.set())
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, before)
