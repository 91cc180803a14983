"""Job `train`: rows -> checkpoints. The loop dispatches a step and reads the metrics of the one before."""

import contextlib
import functools
import hashlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from cprec_jax import artefact
from cprec_jax.config.root import Config
from cprec_jax.config.train import TrainSpec
from cprec_jax.data import loader
from cprec_jax.data import rows as rows_on_disk
from cprec_jax.data.mixture import blend, check_shares, proportions, row_limits
from cprec_jax.errors import Diverged, Preempted, UserError
from cprec_jax.hf.hub import locate
from cprec_jax.model.decoder import Decoder, abstract_params, init_params
from cprec_jax.model.kernels.cudnn import Cudnn
from cprec_jax.parallel import global_batch, rules
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.progress import Progress, say
from cprec_jax.text import tokenizer_files
from cprec_jax.train import run
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.meters import Meters
from cprec_jax.train.objectives import cpt
from cprec_jax.train.optimizer import adamw
from cprec_jax.train.schedule import anneal_fraction, phases, wsa
from cprec_jax.train.step import TrainState, train_step
from cprec_jax.workdir import rows_directory

BATCH_COLUMNS = ("tokens", "segment_ids", "positions", "loss_mask")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything fixed before the first step."""

    directory: Path
    rows: Path
    train: TrainSpec
    decoder: Decoder
    shares: Mapping[str, float]
    anneal_shares: Mapping[str, float]
    limits: Mapping[str, int]
    anneal_limits: Mapping[str, int]
    total_steps: int
    init_from: str | None
    base_vocab_size: int
    vocab_size: int
    named_tokens: tuple[str, ...]


def make_plan(config: Config, workdir: Path, directory: Path) -> Plan:
    """Check the config against the rows, before anything is compiled or written. directory: of the run."""
    train_spec, model_spec = config.train_section, config.model
    rows = rows_directory(workdir)
    manifest = artefact.read_json(rows / artefact.MANIFEST, "pack")
    rows_on_disk.check_shards(rows, manifest["shards"])
    sizes = {name: split["rows"] for name, split in manifest["splits"].items()}
    anneal_mixture = train_spec.annealed_mixture
    check_shares(train_spec.mixture, sizes, "config.train.mixture")
    check_shares(anneal_mixture, sizes, "config.train.anneal_mixture")
    shares, anneal_shares = proportions(train_spec.mixture, sizes), proportions(anneal_mixture, sizes)
    # A budget of different tokens is for both phases together, so both use the same rows: each source's share of the whole run.
    over_all = blend(shares, anneal_shares, anneal_fraction(train_spec.schedule))
    limits = row_limits(train_spec.mixture, over_all, sizes, manifest["row_length"])
    total_steps = train_spec.total_steps(sum((sizes | limits).values()), manifest["row_length"])
    base_vocab_size = manifest.get("base_vocab_size", manifest["vocab_size"])
    token_ids = tokenizer_files.token_ids(rows / "tokenizer") if model_spec.init_from is not None else None
    decoder_config = run.decoder_config(model_spec, manifest["vocab_size"], base_vocab_size, token_ids, manifest.get("named_tokens", ()))
    if decoder_config.max_position_embeddings < manifest["row_length"]:
        say(f"warning: rows have {manifest['row_length']} tokens, the base model was made for {decoder_config.max_position_embeddings}")
    if model_spec.init_from is not None:
        _warn_of_another_tokenizer(model_spec.init_from, rows / "tokenizer")
    return Plan(
        directory=directory,
        rows=rows,
        train=train_spec,
        decoder=run.make_decoder(model_spec, decoder_config, manifest["row_length"], _most_segments(manifest["splits"])),
        shares=shares,
        anneal_shares=anneal_shares,
        limits=limits,
        anneal_limits=row_limits(anneal_mixture, over_all, sizes, manifest["row_length"]),
        total_steps=total_steps,
        init_from=model_spec.init_from,
        base_vocab_size=base_vocab_size,
        vocab_size=manifest["vocab_size"],
        named_tokens=tuple(manifest.get("named_tokens", ())),
    )


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


def train(config: Config, workdir: Path, directory: Path, made_from: Mapping[str, Any], stop: threading.Event) -> None:
    """Train the run `directory` to the end, or go on from its newest checkpoint; `stop` asks to save and end at the next step.

    What the run is `made_from` is in its description from the start; that it is the same as before is for the caller to see to.
    """
    plan = make_plan(config, workdir, directory)
    mesh = make_mesh(**vars(config.mesh))
    plan.directory.mkdir(parents=True, exist_ok=True)
    run.write_description(plan.directory, plan.decoder.config, config, made_from)
    if plan.init_from is not None and jax.process_index() == 0:
        from cprec_jax.hf import base

        base.keep(plan.init_from, plan.rows / "tokenizer", plan.directory / base.DIRECTORY)
    batch_devices = mesh.shape["data"] * mesh.shape["fsdp"]
    micro = plan.train.global_batch // plan.train.micro_batches
    if micro % batch_devices:
        raise UserError(
            f"config.train.global_batch: {micro} rows per micro-batch do not divide over {batch_devices} devices; choose a multiple"
        )
    inputs_hash = artefact.fingerprint(made_from)
    with jax.set_mesh(mesh):
        final = _loop(plan, mesh, stop, inputs_hash)
    digest = parameters_sha256(final.params)
    if jax.process_index() == 0:
        artefact.write_manifest(plan.directory, made_from, {"step": int(final.step), "params_sha256": digest})
    say(f"train: done, {int(final.step)} steps, parameters sha256 {digest[:16]}")


def parameters_sha256(params: Any) -> str:
    """SHA-256 over all parameters' bytes in path order: equal only for bit-identical parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        if not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _initial_state(plan: Plan, mesh: jax.sharding.Mesh, optimizer: optax.GradientTransformation) -> tuple[TrainState, Any]:
    """A state at step 0 (new or from the base model), and its shardings."""
    shapes, axes = abstract_params(plan.decoder)
    param_shardings = rules.param_shardings(mesh, shapes, axes)
    replicated = rules.replicated(mesh)
    opt_shardings = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, shapes),
        param_shardings,
        transform_non_params=lambda _: replicated,
    )
    if plan.init_from is None:
        make = jax.jit(functools.partial(init_params, plan.decoder), out_shardings=param_shardings)
        params = make(jax.random.key(plan.train.seed))
    else:
        from cprec_jax.hf.vocabulary import load_with_room

        base = locate(plan.init_from)
        sizes = plan.base_vocab_size, plan.vocab_size
        params = load_with_room(base, plan.decoder.config, *sizes, param_shardings, plan.named_tokens)
    opt_state = jax.jit(optimizer.init, out_shardings=opt_shardings)(params)
    state = TrainState(step=jax.device_put(jnp.zeros((), jnp.int32), replicated), params=params, opt_state=opt_state)
    return state, TrainState(step=cast(Any, replicated), params=param_shardings, opt_state=opt_shardings)


def _batches(plan: Plan, first_step: int, held: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
    """Rows `held` of the batches from `first_step` on; the annealing phase may have a mixture of its own."""
    _, boundary = phases(plan.train.schedule, plan.total_steps)
    if (plan.anneal_shares, plan.anneal_limits) == (plan.shares, plan.limits):
        boundary = plan.total_steps
    read = functools.partial(loader.batches, rows=held, global_batch=plan.train.global_batch, workers=plan.train.loader_workers)
    if first_step < boundary:
        rows = loader.stream(plan.rows, plan.shares, plan.train.seed, limits=plan.limits)
        yield from read(rows, first_step=first_step, last_step=boundary)
    if boundary < plan.total_steps:
        rows = loader.stream(plan.rows, plan.anneal_shares, plan.train.seed, prefix=boundary, limits=plan.anneal_limits)
        yield from read(rows, first_step=max(first_step, boundary) - boundary, last_step=plan.total_steps - boundary)


def _loop(plan: Plan, mesh: jax.sharding.Mesh, stop: threading.Event, inputs_hash: str) -> TrainState:
    spec = plan.train
    schedule = wsa(spec.schedule, plan.total_steps)
    optimizer = adamw(spec.optimizer, schedule)
    state, shardings = _initial_state(plan, mesh, optimizer)
    milestones = sorted({0, *(round(m * plan.total_steps) for m in spec.milestones)})
    checkpoints = Checkpoints(plan.directory / "checkpoints", spec.keep, milestones)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
    restored = _restore(plan, checkpoints, abstract, milestones)
    meta: dict[str, Any] = {"tokens": 0, "seconds": 0.0}
    if restored is not None:
        state, meta = restored
        say(f"train: going on from step {int(state.step)} of {plan.total_steps}")
    first_step = int(state.step)
    meters = Meters(plan.directory, first_step, meta["seconds"])
    pure_step = functools.partial(
        train_step,
        loss_sum=functools.partial(_cpt_loss, decoder=plan.decoder, loss_chunk=spec.loss_chunk),
        optimizer=optimizer,
        schedule=schedule,
        micro_batches=spec.micro_batches,
        dropout_seed=spec.seed if plan.decoder.dropout else None,
    )
    step_fn = jax.jit(pure_step, in_shardings=(shardings, None), out_shardings=(shardings, None), donate_argnums=0)
    keep_also = set(milestones)
    tokens = int(meta["tokens"])
    progress = Progress("train", plan.total_steps - first_step, "steps")
    window = _Window()

    def save(at: TrainState) -> None:
        checkpoints.save(at, {"tokens": tokens, "seconds": meters.seconds, "inputs_hash": inputs_hash})

    if first_step == 0:
        save(state)
        checkpoints.verify(state)  # a disk that gives back something else is better known now than after a week
    pending: tuple[int, dict[str, jax.Array], dict[str, np.ndarray]] | None = None
    batch_sharding = rules.batch_sharding(mesh, spec.global_batch)
    held = global_batch.rows_held(batch_sharding, spec.global_batch)
    try:
        for step, rows in enumerate(_batches(plan, first_step, held.tolist()), start=first_step):
            if isinstance(plan.decoder.attend, Cudnn):
                plan.decoder.attend.check(rows["segment_ids"])
            batch = global_batch.assemble({name: rows[name] for name in BATCH_COLUMNS}, held, batch_sharding, spec.global_batch)
            state, metrics = step_fn(state, batch)
            last, stopping = step + 1 == plan.total_steps, stop.is_set()  # asked once: what stops is what was saved
            saving = last or (step + 1) % spec.checkpoint_every == 0 or step + 1 in keep_also or stopping
            # Reading a step's metrics waits for it; reading those of the one before keeps the device busy.
            for done in ([pending] if pending else []) + ([(step, metrics, rows)] if saving else []):
                tokens += _report(done, spec.log_every, meters, window, tokens, plan.directory, plan.total_steps, progress)
            pending = None if saving else (step, metrics, rows)
            if saving:
                save(state)
            if stopping and not last:
                checkpoints.close()
                raise Preempted(f"SIGTERM: saved step {step + 1} of {plan.total_steps}; run the same command to go on")
    except Diverged:
        jax.block_until_ready(state)  # the next step is in flight, and on CPUs its collectives could block whatever comes after
        raise
    finally:
        meters.close()
    if first_step < plan.total_steps:
        _verify_last(checkpoints, state, save)
    checkpoints.close()
    return state


def _restore(plan: Plan, checkpoints: Checkpoints, abstract: TrainState, milestones: Sequence[int]) -> Any:
    """Where to go on: the newest whole checkpoint; of a finished run that lost one, the newest before the lost one."""
    restored = checkpoints.restore_newest(abstract)
    if restored is None or not (plan.directory / artefact.MANIFEST).exists():
        return restored
    checkpoints.set_aside_damaged(abstract)
    newest = int(restored[0].step)
    lost = [step for step in milestones if step < newest and step not in checkpoints.steps()]
    if not lost:
        return restored
    say(f"train: checkpoints of steps {', '.join(map(str, lost))} are missing; they are made again")
    return checkpoints.restore_newest(abstract, at_most=lost[0])


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


def _cpt_loss(params: Any, batch: Mapping[str, jax.Array], key: jax.Array | None, *, decoder: Decoder, loss_chunk: int) -> Any:
    return cpt.loss_sum(params, batch, decoder, loss_chunk, key)


@dataclass
class _Window:
    """Tokens since the last logged line, for the rate."""

    tokens: int = 0
    since: float | None = None


def _report(
    done: Any, log_every: int, meters: Meters, window: _Window, tokens: int, directory: Path, total: int, progress: Progress
) -> int:
    """Check and log one finished step; returns its non-padding tokens."""
    step, metrics, rows = done
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
        where = ", ".join(f"{source}:{row}" for source, row in zip(rows["source"].tolist(), rows["row"].tolist(), strict=True))
        raise Diverged(
            f"loss {values['loss']} and gradient norm {values['grad_norm']} at step {step + 1}, rows (source:row) {where}; "
            f"the last good checkpoint is the newest in {directory / 'checkpoints'}; lower config.train.schedule.peak"
        )
    new = int(values.pop("padding_free"))
    now = meters.seconds
    if window.since is None:  # the first step compiles; the rate begins after it
        window.since = now
    else:
        window.tokens += new
    if (step + 1) % log_every == 0 or step + 1 == total:
        rate = window.tokens / max(now - window.since, 1e-9)
        meters.write(step + 1, {**values, "tokens": tokens + new, "tokens_per_second": round(rate, 1)})
        window.tokens, window.since = 0, now
        progress.advance(0, f"loss {values['loss']:.3f}, {rate:.0f} tokens/s")
    progress.advance(1, f"loss {values['loss']:.3f}")
    return new


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
