"""What the loop does between steps: log, save, stop, profile."""

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.errors import Diverged, Preempted
from cprec_jax.launcher import step_file
from cprec_jax.parallel import processes
from cprec_jax.progress import Progress
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.local_tier import LocalTier
from cprec_jax.train.loggers.logger import Logger
from cprec_jax.train.remote_tier import RemoteTier
from cprec_jax.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Done:
    """A dispatched step.

    step: its number; the first is 1. metrics: on the device, perhaps not computed yet. rows: its batch on the host.
    """

    step: int
    metrics: Mapping[str, jax.Array]
    rows: Mapping[str, np.ndarray]


class Clock:
    """Wall seconds of a run, over all its attempts."""

    def __init__(self, seconds_before: float = 0.0):
        self._start = time.monotonic() - seconds_before

    @property
    def seconds(self) -> float:
        """Since the start of the run, without the time between attempts."""
        return time.monotonic() - self._start


class Log:
    """Checks the loss of every step, counts tokens, and logs the metrics of each `every`-th step and the last one."""

    def __init__(
        self,
        loggers: Sequence[Logger],
        clock: Clock,
        every: int,
        first_step: int,
        total_steps: int,
        tokens: int,
        checkpoints: Path,
    ):
        self.tokens = tokens  # since the first step of the run, without padding
        self._loggers, self._clock, self._every, self._total_steps = loggers, clock, every, total_steps
        self._checkpoints = checkpoints
        self._progress = Progress("train", total_steps - first_step, "steps")
        self._window_tokens, self._window_start = 0, None  # since the last logged step, for the rate

    _window_start: float | None

    def __call__(self, done: Done, validate: Callable[[], Mapping[str, float]] | None = None) -> None:
        """Wait for the step, check its loss, and log it where it is due. Raises `Diverged` for a loss or gradient norm
        that is not finite.

        validate: computes values of the step's parameters, which are logged with its metrics; with it the step is
          always logged. It is called after the check of the loss, and its time is left out of the token rate.
        """
        values = {name: float(value) for name, value in jax.device_get(dict(done.metrics)).items()}
        self._check(values, done)
        values.pop(STOPPING, None)
        new = int(values.pop("padding_free"))
        self.tokens += new
        now = self._clock.seconds
        if self._window_start is None:  # the first step compiles; the rate begins after it
            self._window_start = now
        else:
            self._window_tokens += new
        if validate is not None or done.step % self._every == 0 or done.step == self._total_steps:
            rate = self._window_tokens / max(now - self._window_start, 1e-9)
            counted = {"tokens": self.tokens, "tokens_per_second": round(rate, 1)}
            validated = {} if validate is None else validate()
            for logger in self._loggers:
                logger.write(done.step, {**values, **counted, **validated}, now)
            self._window_tokens, self._window_start = 0, self._clock.seconds
            self._progress.advance(0, f"loss {values['loss']:.3f}, {rate:.0f} tokens/s")
        self._progress.advance(1, f"loss {values['loss']:.3f}")
        step_file.note(step=done.step, training=done.step < self._total_steps)

    def _check(self, values: Mapping[str, float], done: Done) -> None:
        if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
            return
        rows = zip(done.rows["source"].tolist(), done.rows["row"].tolist(), strict=True)
        raise Diverged(
            f"loss {values['loss']} and gradient norm {values['grad_norm']} at step {done.step}, rows (source:row) "
            f"{', '.join(f'{source}:{row}' for source, row in rows)}; the last good checkpoint is the newest in "
            f"{self._checkpoints}; lower config.train.schedule.peak"
        )

    def close(self) -> None:
        """Close the loggers."""
        step_file.note(training=False)
        for logger in self._loggers:
            logger.close()


class Save:
    """Saves every `every`-th step, those of `steps`, and the last one, in the run's directory.

    With a near tier, every `near_every`-th of the other steps is saved there. With a remote tier, the former are
    copied.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every: int,
        steps: Collection[int],
        total_steps: int,
        log: Log,
        clock: Clock,
        facts: Mapping[str, Any],
        near: LocalTier | None = None,
        near_every: int = 1,
        remote: RemoteTier | None = None,
    ):
        self._near, self._near_every, self._remote = near, near_every, remote
        self._checkpoints, self._every, self._steps = checkpoints, every, {*steps, total_steps}
        self._log, self._clock, self._facts = log, clock, facts

    def is_due(self, step: int) -> bool:
        """Whether the step is to be saved, in either place."""
        return self._is_durable(step) or (self._near is not None and step % self._near_every == 0)

    def _is_durable(self, step: int) -> bool:
        return step % self._every == 0 or step in self._steps

    def __call__(self, state: TrainState, durable: bool = True) -> None:
        """Save the state. durable: in the run's directory even where its step is due in the near tier alone."""
        with jax.transfer_guard("allow"):  # orbax copies the arrays to the host
            step = int(state.step)
            meta = {"tokens": self._log.tokens, "seconds": self._clock.seconds, **self._facts}
            if durable or self._near is None or self._is_durable(step):
                self._checkpoints.save(state, meta)
                if self._remote is not None:
                    self._remote.save(step)
            else:
                self._near.save(state, meta)
        step_file.note(saved=step)


# the batch column, and its sum as a metric: how many devices belong to a process that is asked to stop
STOPPING = "stopping"


class Stop:
    """Stops the run early when `flag` is set.

    Several processes must stop after the same step, whichever of them got the signal. So each adds its flag to every
    batch, the step sums the flags, and all read the sum of the previous step, which is the same in all. That costs no
    extra transfer or synchronisation.
    """

    def __init__(
        self, flag: threading.Event, checkpoints: Checkpoints, total_steps: int, remote: RemoteTier | None = None
    ):
        self._flag, self._checkpoints, self._total_steps, self._remote = flag, checkpoints, total_steps, remote
        self._flags: dict[bool, jax.Array] = {}  # by value, made once

    def arrays(self, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
        """The column of this process's flag for the next batch, int32[devices]; empty with one process."""
        if processes.count() == 1:
            return {}
        is_set = self._flag.is_set()
        if is_set not in self._flags:
            sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
            with jax.transfer_guard_host_to_device("allow"):
                flag = np.full(1, is_set, np.int32)
                self._flags[is_set] = jax.make_array_from_callback((mesh.size,), sharding, lambda _: flag)
        return {STOPPING: self._flags[is_set]}

    def is_asked(self, before: Done | None) -> bool:
        """Whether all processes stop now. before: the step before the one that was just dispatched."""
        if processes.count() == 1:
            return self._flag.is_set()
        return before is not None and int(jax.device_get(before.metrics[STOPPING])) > 0

    def __call__(self, step: int) -> None:
        """After `step` was saved: raise `Preempted`, unless it was the last step."""
        if step < self._total_steps:
            self._checkpoints.close()
            if self._remote is not None:
                self._remote.finish(lambda: True)
            raise Preempted(f"SIGTERM: saved step {step} of {self._total_steps}; run the same command to go on")


def with_flags(
    train_step: Callable[..., tuple[Any, dict[str, jax.Array]]],
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """`train_step` with the sum of the column of `Stop.arrays` as one more metric."""

    def step(state: Any, frozen: Any, batch: Mapping[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        columns = dict(batch)
        flags = columns.pop(STOPPING)
        state, metrics = train_step(state, frozen, columns)
        return state, {**metrics, STOPPING: jnp.sum(flags)}

    return step


class Profile:
    """Writes a profiler trace into `directory`, from the end of step `window[0]` to the end of step `window[1]`.

    window: None writes none.
    """

    def __init__(self, window: tuple[int, int] | None, directory: Path):
        self._window, self._directory = window, directory
        self._running = False

    def __call__(self, step: int, state: TrainState) -> None:
        """Start or stop the trace after `step` was dispatched; `state` is its result."""
        if self._window is None:
            return
        first, last = self._window
        if not self._running and first <= step < last:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._directory))
            self._running = True
        elif self._running and step >= last:
            self.close(state)

    def close(self, state: TrainState) -> None:
        """Stop a trace that is running."""
        if self._running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running, self._window = False, None
