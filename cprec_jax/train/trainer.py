"""Job `train`: rows -> checkpoints. What a run is, what it starts from, and what goes into its loop (`loop.py`)."""

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np
import optax

from cprec_jax import artefact
from cprec_jax.attempts import Ledger
from cprec_jax.config.help import written
from cprec_jax.config.lora import LoraSpec
from cprec_jax.config.objective import ObjectiveSpec
from cprec_jax.config.root import Config
from cprec_jax.config.rows import Reads
from cprec_jax.config.runs import shown
from cprec_jax.config.train import TrainSpec
from cprec_jax.data import loader
from cprec_jax.data import rows as rows_on_disk
from cprec_jax.data.mixture import blend, check_shares, proportions, row_limits, usable
from cprec_jax.errors import UserError
from cprec_jax.hf.hub import locate
from cprec_jax.launcher import step_file
from cprec_jax.model.attention import PackedAttendFn
from cprec_jax.model.decoder import Decoder, abstract_params, init_params
from cprec_jax.parallel import global_batch, processes, rules
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.paths import local_path
from cprec_jax.progress import say
from cprec_jax.text import tokenizer_files
from cprec_jax.train import run
from cprec_jax.train.actions import Clock, Log, Profile, Save, Stop, with_flags
from cprec_jax.train.checkpoint import BASE, Checkpoints, check_base
from cprec_jax.train.fingerprint import parameters_sha256
from cprec_jax.train.leaves import Leaves, by_name, matching, merge, split
from cprec_jax.train.local_tier import LocalTier
from cprec_jax.train.loggers.logger import LoggedRun, open_loggers
from cprec_jax.train.loop import Batch, Step, train_loop
from cprec_jax.train.lora import adapters_of, as_read, base_names, fresh_adapter, same_adapters
from cprec_jax.train.objectives.make import make_objective
from cprec_jax.train.objectives.objective import Objective
from cprec_jax.train.optimizer import make_optimizer
from cprec_jax.train.overview import overview
from cprec_jax.train.restore import restore_decoder, restore_stored
from cprec_jax.train.schedule import anneal_fraction, phases, wsa
from cprec_jax.train.start import Start
from cprec_jax.train.state import TrainState, abstract, new_state, shardings_of
from cprec_jax.train.step import train_step
from cprec_jax.workdir import corpus_directory, rows_directory, saved_steps

T = TypeVar("T")
PRETRAINING = Reads()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything fixed before the first step.

    corpus: where it lies; sets: that the run is fine-tuned on (none: pre-training).

    first: the step it starts at, which is not 0 where it goes on with another run; `total_steps` counts from 0, too. follows: whether its
    rows are those that the other run would have read next; else they are a phase with a mixture of its own.
    """

    directory: Path
    corpus: Path
    rows: Path
    splits: tuple[str, ...]
    sets: tuple[str, ...]
    loss: ObjectiveSpec
    lora: LoraSpec | None
    train: TrainSpec
    decoder: Decoder
    shares: Mapping[str, float]
    anneal_shares: Mapping[str, float]
    limits: Mapping[str, int]
    anneal_limits: Mapping[str, int]
    first: int
    total_steps: int
    start: Start | None
    follows: bool
    init_from: str | None
    base_vocab_size: int
    vocab_size: int
    named_tokens: tuple[str, ...]


def make_plan(config: Config, workdir: Path, directory: Path, start: Start | None = None, reads: Reads = PRETRAINING) -> Plan:
    """Check the config against the rows, before anything is compiled or written.

    Args:
      config, directory, reads: of one run.
      start: the checkpoint of another run that it starts from.
    """
    train_spec, model_spec = config.train_section, config.model
    rows = rows_directory(workdir, reads.kind.name)
    manifest = artefact.read_json(rows / artefact.MANIFEST, "pack")
    rows_on_disk.check_shards(rows, manifest["shards"])
    splits = _splits(train_spec, manifest["splits"], reads)
    sizes = {name: split["rows"] for name, split in splits.items()}
    anneal_mixture = train_spec.annealed_mixture
    for mixture, key in ((train_spec.mixture, "mixture"), (anneal_mixture, "anneal_mixture")):
        check_shares(mixture, sizes, f"config.train.{key}")
    shares, anneal_shares = proportions(train_spec.mixture, sizes), proportions(anneal_mixture, sizes)
    # A budget of different tokens is for both phases together, so both use the same rows: each source's share of the whole run.
    over_all = blend(shares, anneal_shares, anneal_fraction(train_spec.schedule))
    limits = row_limits(train_spec.mixture, over_all, sizes, manifest["row_length"])
    first = start.step if start is not None and start.goes_on else 0
    total_steps = first + train_spec.total_steps(sum((sizes | limits).values()), manifest["row_length"])
    base_vocab_size = manifest.get("base_vocab_size", manifest["vocab_size"])
    if start is None:
        token_ids = tokenizer_files.token_ids(rows / "tokenizer") if model_spec.init_from is not None else None
        decoder_config = run.decoder_config(
            model_spec, manifest["vocab_size"], base_vocab_size, token_ids, manifest.get("named_tokens", ())
        )
    else:
        decoder_config = run.read_description(start.directory)["decoder"]
    if decoder_config.max_position_embeddings < manifest["row_length"]:
        say(f"warning: rows have {manifest['row_length']} tokens, the base model was made for {decoder_config.max_position_embeddings}")
    name, lora = next(((name, run.lora) for name, run in config.runs.items()), ("", None))
    adapters = None if lora is None else adapters_of(lora, decoder_config, f"config.runs.{name}.lora")
    if model_spec.init_from is not None and start is None:
        _warn_of_another_tokenizer(model_spec.init_from, rows / "tokenizer")
    return Plan(
        directory=directory,
        corpus=corpus_directory(workdir),
        rows=rows,
        splits=tuple(splits),
        sets=reads.sets,
        loss=next((run.loss for run in config.runs.values()), ObjectiveSpec()),
        lora=lora,
        train=train_spec,
        decoder=run.make_decoder(model_spec, decoder_config, manifest["row_length"], _most_segments(splits), adapters),
        shares=shares,
        anneal_shares=anneal_shares,
        limits=limits,
        anneal_limits=row_limits(anneal_mixture, over_all, sizes, manifest["row_length"]),
        first=first,
        total_steps=total_steps,
        start=start,
        follows=first > 0 and _same_rows(start, shares, limits, manifest, train_spec, reads),
        init_from=model_spec.init_from,
        base_vocab_size=base_vocab_size,
        vocab_size=manifest["vocab_size"],
        named_tokens=tuple(manifest.get("named_tokens", ())),
    )


def _splits(spec: TrainSpec, splits: Mapping[str, T], reads: Reads) -> dict[str, T]:
    """The splits that a run draws from."""
    return {name: splits[name] for name in reads.sets} if reads.kind.stage == "sft" else usable(spec, splits)


def _same_rows(
    start: Start | None,
    shares: Mapping[str, float],
    limits: Mapping[str, int],
    manifest: Mapping[str, Any],
    spec: TrainSpec,
    reads: Reads,
) -> bool:
    """Whether the run that it goes on with reads its stable phase by the same shares, limits, seed and batch."""
    assert start is not None
    other: TrainSpec = run.read_description(start.directory)["train"]
    sizes = {name: split["rows"] for name, split in _splits(other, manifest["splits"], reads).items()}
    their_shares = proportions(other.mixture, sizes)
    over_all = blend(their_shares, proportions(other.annealed_mixture, sizes), anneal_fraction(other.schedule))
    their_limits = row_limits(other.mixture, over_all, sizes, manifest["row_length"])
    return (their_shares, their_limits, other.seed, other.global_batch) == (shares, limits, spec.seed, spec.global_batch)


def _warn_of_another_tokenizer(init_from: str, tokenizer_dir: Path) -> None:
    from cprec_jax.hf import base

    if not base.extends(tokenizer_dir, locate(init_from)):
        say(
            f"warning: the rows were not made with the tokenizer of {init_from}, whose embeddings belong to other tokens then; "
            "set config.text.tokenizer to the base model's own, and pack again"
        )


def _most_segments(splits: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The most documents and padding that a row holds; None for rows that were packed before this was noted."""
    filled = [split for split in splits.values() if split["rows"]]
    if any("most_documents" not in split for split in filled):
        return None
    return 1 + max(split["most_documents"] for split in filled)


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
    until: float = 1.0,
    ends: bool = True,
) -> int:
    """Train the run `directory` to the end, or go on from its newest checkpoint; `stop` asks to save and end at the next step.

    What the run is `made_from` is in its description from the start; that it is the same as before is for the caller to see to.
    A finished run is replayed as far as a checkpoint is missing that was to stay, and is otherwise left as it is.

    Args:
      config: of one run.
      reads: its rows.
      start: the checkpoint of another run that it starts from.
      steps, fractions: whose checkpoints stay, beside the milestones of its section.
      until: the fraction of its steps after which it stops, without having annealed.
      ends: whether it is finished then; else it can go on.

    Returns the number of steps of the whole run.
    """
    plan = make_plan(config, workdir, directory, start, reads)
    finished = processes.from_first((directory / artefact.MANIFEST).exists)
    kept = processes.from_first(lambda: saved_steps(directory)) if finished else []  # a replay adds checkpoints, and removes none
    stay = {plan.first, *kept, *steps, *(round(part * plan.total_steps) for part in (*plan.train.milestones, *fractions))}
    until_step = plan.first + max(1, round(until * (plan.total_steps - plan.first)))
    milestones = sorted(step for step in {*stay, until_step} if plan.first <= step <= plan.total_steps)
    mesh = make_mesh(**vars(config.mesh))
    _say_what_is_trained(plan)
    processes.by_first(functools.partial(_describe, plan, config, made_from, reads))
    batch_devices = mesh.shape["data"] * mesh.shape["fsdp"]
    micro = plan.train.global_batch // plan.train.micro_batches
    if micro % batch_devices:
        raise UserError(
            f"config.train.global_batch: {micro} rows per micro-batch do not divide over {batch_devices} devices; choose a multiple"
        )
    inputs_hash = artefact.fingerprint(made_from)
    noted = plan.directory if processes.is_first() and not finished else None  # a replay adds nothing to a run
    with Ledger(noted, processes.count(), jax.device_count()) as ledger, jax.set_mesh(mesh):
        final, frozen, base_sha256 = _loop(plan, mesh, stop, inputs_hash, milestones, until_step, ledger)
    if not (ends or finished):
        return plan.total_steps
    facts: dict[str, Any] = {"step": int(final.step), "first": plan.first, "params_sha256": _sha256(final, frozen, base_sha256)}
    if int(final.step) < plan.total_steps and not finished:
        facts["stopped_early_of"] = plan.total_steps
    if finished:  # what was noted of it stays, and of one that was replayed that it is what it was
        before = artefact.read_json(plan.directory / artefact.MANIFEST, "train")
        replayed = int(final.step) < plan.total_steps
        facts = {key: value for key, value in before.items() if key not in artefact.OF_EVERY_MANIFEST} | ({} if replayed else facts)
    processes.by_first(functools.partial(artefact.write_manifest, plan.directory, made_from, facts))
    say(f"train: done, {facts['step']} steps, parameters sha256 {facts['params_sha256'][:16]}")
    return plan.total_steps


def _describe(plan: Plan, config: Config, made_from: Mapping[str, Any], reads: Reads) -> None:
    """Write what others need to know about the run."""
    plan.directory.mkdir(parents=True, exist_ok=True)
    run.write_description(plan.directory, plan.decoder.config, config, made_from, reads)
    if plan.init_from is not None:
        from cprec_jax.hf import base

        base.keep(plan.init_from, plan.rows / "tokenizer", plan.directory / base.DIRECTORY)


def _sha256(final: TrainState, frozen: Leaves, base_sha256: str | None) -> str:
    """Of all parameters; under an adapter of its own and the base's."""
    if base_sha256 is None:
        return parameters_sha256(merge(final.trained, frozen))
    return artefact.fingerprint({"adapter": parameters_sha256(final.trained), "base": base_sha256})


def _initial_state(plan: Plan, mesh: jax.sharding.Mesh, optimizer: optax.GradientTransformation) -> tuple[TrainState, Leaves]:
    """A state at step 0 (new or from the base model), and the leaves that stay as they are."""
    params = _initial_params(plan, mesh)
    if plan.decoder.adapters is not None and len(by_name(params)) < len(by_name(abstract_params(plan.decoder)[0])):
        params = merge(params, fresh_adapter(plan.decoder, plan.train.seed, mesh))
    trained, frozen = split(params, _frozen_names(plan))
    return new_state(trained, optimizer, mesh), frozen


def _initial_params(plan: Plan, mesh: jax.sharding.Mesh) -> Any:
    """What the run starts from, float32: a model, and, where it goes on with an adapter, that one."""
    decoder = plan.decoder.clone(adapters=None)
    param_shardings = rules.param_shardings(mesh, *abstract_params(decoder))
    if plan.start is not None:
        return _params_of_start(plan, plan.start, mesh)
    if plan.init_from is None:
        make = jax.jit(functools.partial(init_params, decoder), out_shardings=param_shardings)
        return make(jax.random.key(plan.train.seed))
    from cprec_jax.hf.vocabulary import load_with_room

    base = locate(plan.init_from)
    sizes = plan.base_vocab_size, plan.vocab_size
    return load_with_room(base, plan.decoder.config, *sizes, param_shardings, plan.named_tokens)


def _params_of_start(plan: Plan, start: Start, mesh: jax.sharding.Mesh) -> Any:
    """The parameters of a checkpoint of another run. Its adapter is gone on with; a run without one trains the sum of base and adapter."""
    theirs, ours = run.adapters_of_run(start.directory), plan.decoder.adapters
    if theirs is None or ours is None:
        return restore_decoder(start.directory, start.step, mesh=mesh).params
    if not same_adapters(theirs, ours):
        before, own = run.read_description(start.directory)["lora"], plan.lora
        assert own is not None
        raise UserError(
            f"{plan.directory.name}: starts from {start.directory.name}, whose adapter has {shown(before)}, and its own has {shown(own)}; "
            "give both the same, or take `lora` away from one of them"
        )
    return restore_stored(start.directory, start.step, mesh=mesh).params


def _frozen_names(plan: Plan) -> frozenset[str]:
    """The leaves that `config.train.frozen` names, and under an adapter all but those of the adapter; at least one must be left."""
    names = list(by_name(abstract_params(plan.decoder)[0]))
    frozen = matching(plan.train.frozen, names, "config.train.frozen")
    if plan.decoder.adapters is not None:
        frozen |= base_names(abstract_params(plan.decoder)[0])
    if len(frozen) == len(names):
        raise UserError("config.train.frozen: nothing is left to train; name fewer parameters")
    return frozen


def _trained_axes(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The logical axes of the leaves that are trained, by name."""
    axes = by_name(abstract_params(plan.decoder)[1], is_leaf=lambda one: isinstance(one, tuple))
    frozen = _frozen_names(plan)
    return {name: own for name, own in axes.items() if name not in frozen}


def _say_what_is_trained(plan: Plan) -> None:
    """The table of parameters. A pattern that matches nothing is a `UserError`."""
    shapes, axes = abstract_params(plan.decoder)
    by = by_name(axes, is_leaf=lambda one: isinstance(one, tuple))
    table = overview(shapes, by, _frozen_names(plan), plan.train.optimizer)
    if jax.process_index() == 0:
        say(table)


def _batches(
    plan: Plan, first_step: int, held: Sequence[int], more: Callable[[Mapping[str, Any]], dict[str, np.ndarray]] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Rows `held` of the batches from `first_step` on, with what an objective adds; the annealing phase may have a mixture of its own.

    Elements of a stream are counted from the step at which it begins: 0, that of another mixture, or that of the annealing phase.
    """
    boundary = plan.first + phases(plan.train.schedule, plan.total_steps - plan.first)[1]
    if (plan.anneal_shares, plan.anneal_limits) == (plan.shares, plan.limits):
        boundary = plan.total_steps
    read = functools.partial(loader.batches, rows=held, global_batch=plan.train.global_batch, workers=plan.train.loader_workers)
    if first_step < boundary:
        begin = plan.first if plan.first and not plan.follows else 0
        rows = loader.stream(plan.rows, plan.shares, plan.train.seed, prefix=begin, limits=plan.limits, more=more)
        yield from read(rows, first_step=first_step - begin, last_step=boundary - begin)
    if boundary < plan.total_steps:
        shares, limits = plan.anneal_shares, plan.anneal_limits
        rows = loader.stream(plan.rows, shares, plan.train.seed, prefix=boundary, limits=limits, more=more)
        yield from read(rows, first_step=max(first_step, boundary) - boundary, last_step=plan.total_steps - boundary)


def _loop(
    plan: Plan, mesh: jax.sharding.Mesh, flag: threading.Event, inputs_hash: str, milestones: Sequence[int], until: int, ledger: Ledger
) -> tuple[TrainState, Leaves, str | None]:
    """Train from the newest checkpoint, or from the start, to step `until`. Gives the last state, frozen leaves, and the base's hash."""
    spec, total_steps = plan.train, plan.total_steps
    schedule = _schedule(plan)
    optimizer = make_optimizer(spec.optimizer, schedule, _trained_axes(plan))
    state, frozen = _initial_state(plan, mesh, optimizer)
    checkpoints = Checkpoints(plan.directory / "checkpoints", spec.keep, milestones)
    near = LocalTier(local_path(spec.near, "config.train.near"), plan.directory, inputs_hash) if spec.near is not None else None
    facts = {"inputs_hash": inputs_hash}
    with ledger.phase("restore"):
        frozen = checkpoints.keep_frozen(frozen)
        if plan.decoder.adapters is not None:
            facts[BASE] = parameters_sha256(frozen)
            frozen = as_read(frozen, plan.decoder.dtype)
        restored, last_step = _restore(plan, checkpoints, abstract(state), milestones)
    finished = artefact.read_manifest(plan.directory)
    logging = last_step == (total_steps if finished is None else int(finished["step"]))  # a replay was logged the first time
    last_step = min(last_step, until)
    if near is not None and logging:
        with ledger.phase("restore"):
            restored = _restore_near(near, restored, abstract(state))
    state, meta = _going_on(plan, state, restored, facts.get(BASE), checkpoints)
    first_step = int(state.step)
    step_file.note(first=first_step)
    logged = LoggedRun(directory=plan.directory, first_step=first_step, name=plan.directory.name, facts=facts | written(spec))
    clock = Clock(meta["seconds"])
    loggers = open_loggers(spec.loggers if logging else (), logged)
    log = Log(loggers, clock, spec.log_every, first_step, total_steps, int(meta["tokens"]), checkpoints.directory)
    save = Save(checkpoints, spec.checkpoint_every, milestones, total_steps, log, clock, facts, near, spec.near_every)
    if restored is None:
        ledger.turn_to("save")
        save(state)
        checkpoints.verify(state)  # a disk that gives back something else is better known now than after a week
    objective = make_objective(plan.loss, plan.decoder, spec.loss_chunk, plan.rows, plan.splits, plan.corpus, plan.sets)
    stop = Stop(flag, checkpoints, total_steps)
    state = train_loop(
        state,
        frozen,
        _global_batches(plan, mesh, first_step, last_step, objective, stop),
        _compiled_step(plan, objective, optimizer, schedule, state, frozen),
        log=log,
        save=save,
        stop=stop,
        profile=Profile(spec.profile_window, plan.directory / "profile"),
        ledger=ledger,
    )
    ledger.turn_to("save")
    if first_step < last_step and logging:
        _verify_last(checkpoints, state, save)
    elif first_step < last_step:
        checkpoints.verify(state)
    checkpoints.close()
    if near is not None:
        near.clear()
    return state, frozen, facts.get(BASE)


def _going_on(plan: Plan, state: TrainState, restored: Any, base_sha256: str | None, checkpoints: Checkpoints) -> tuple[TrainState, Any]:
    """The state to go on from, and its meta: what was restored, that of the run it goes on with, or the new one."""
    if restored is not None:
        check_base(restored[1], base_sha256, str(checkpoints.directory))
        say(f"train: going on from step {int(restored[0].step)} of {plan.total_steps}")
        return restored
    if plan.start is not None and plan.start.goes_on:
        found = _state_of(plan.start, abstract(state))
        check_base(found[1], base_sha256, str(plan.start.directory))
        say(f"train: going on from step {plan.first} of {plan.start.directory.name} to step {plan.total_steps}")
        return found
    return state, {"tokens": 0, "seconds": 0.0}


def _compiled_step(
    plan: Plan, objective: Objective, optimizer: optax.GradientTransformation, schedule: optax.Schedule, state: TrainState, frozen: Leaves
) -> Step:
    """The train step for a state sharded like this one, which it takes over."""
    pure_step: Step = functools.partial(
        train_step,
        objective=objective,
        optimizer=optimizer,
        schedule=schedule,
        micro_batches=plan.train.micro_batches,
        dropout_seed=plan.train.seed if plan.decoder.drops else None,
    )
    shardings = shardings_of(state)
    in_shardings = (shardings, shardings_of(frozen), None)
    if processes.count() > 1:
        pure_step = with_flags(pure_step)
    return jax.jit(pure_step, in_shardings=in_shardings, out_shardings=(shardings, None), donate_argnums=0)


def _global_batches(
    plan: Plan, mesh: jax.sharding.Mesh, first_step: int, last_step: int, objective: Objective, stop: Stop
) -> Iterator[Batch]:
    """The batches of the steps after `first_step` up to `last_step`, looked at by the attention and put on the devices, with what stops
    all processes together."""
    size = plan.train.global_batch
    sharding = rules.batch_sharding(mesh, size)
    held = global_batch.rows_held(sharding, size)
    attend = cast(PackedAttendFn, plan.decoder.attend)
    for step, rows in enumerate(_batches(plan, first_step, held.tolist(), objective.row_columns), start=first_step + 1):
        if step > last_step:
            return
        attend.check_batch(rows)
        arrays = global_batch.assemble({name: rows[name] for name in objective.columns}, held, sharding, size)
        arrays |= stop.arrays(mesh)
        yield Batch(step=step, rows=rows, arrays=arrays)


def _restore(plan: Plan, checkpoints: Checkpoints, abstract: TrainState, milestones: Sequence[int]) -> tuple[Any, int]:
    """Where to go on, and to which step: from the newest whole checkpoint to the end. A finished run that lacks checkpoints that were to
    stay goes on from the newest before them to the last of them."""
    restored = checkpoints.restore_newest(abstract)
    manifest = artefact.read_manifest(plan.directory)
    if restored is None or manifest is None:
        return restored, plan.total_steps
    checkpoints.set_aside_damaged(abstract)
    newest = int(restored[0].step)
    lost = [step for step in milestones if step < newest and step not in checkpoints.steps()]
    if not lost:
        return restored, int(manifest["step"])
    say(f"train: checkpoints of steps {', '.join(map(str, lost))} are missing; they are made again")
    return checkpoints.restore_newest(abstract, at_most=lost[0]), lost[-1]


def _restore_near(near: LocalTier, restored: Any, abstract: TrainState) -> Any:
    """What the near tier has after the newest durable checkpoint, else that. Without any the run was removed meanwhile, or is new."""
    if restored is None:
        near.clear()
        return None
    return near.restore_newest(abstract, above=int(restored[0].step)) or restored


def _state_of(start: Start, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The whole state of a checkpoint of another run, and its meta."""
    checkpoints = Checkpoints(start.directory / "checkpoints", read_only=True)
    found = checkpoints.restore_step(start.step, abstract)
    checkpoints.close()
    return found


def _schedule(plan: Plan) -> optax.Schedule:
    """The learning rate of a step that is counted from 0, for a run that begins at `plan.first`."""
    own = wsa(plan.train.schedule, plan.total_steps - plan.first)
    return own if plan.first == 0 else lambda step: own(step - plan.first)


def _verify_last(checkpoints: Checkpoints, state: TrainState, save: Callable[[TrainState], None]) -> None:
    """`done` means that the last checkpoint can be read. One of an earlier run that came out otherwise this time is replaced."""
    if int(state.step) not in checkpoints.saved:
        try:
            checkpoints.verify(state)
            return
        except UserError:
            say(f"warning: step {int(state.step)} did not come out bit-identically this time (other devices?); evaluate and export again")
            checkpoints.set_aside(int(state.step))
            save(state)
    checkpoints.verify(state)


@contextlib.contextmanager
def sigterm_flag() -> Iterator[threading.Event]:
    """An event that is set when SIGTERM arrives (preemption) while the block runs: the loop then saves at the next step boundary."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.signal(signal.SIGTERM, lambda *_: flag.set())
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, before)
