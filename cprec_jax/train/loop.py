"""The training loop: dispatch a step, then log the previous one. The actions between steps are in `actions.py`.

From the second step on, implicit transfers between host and device are errors.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from cprec_jax.attempts import Ledger
from cprec_jax.errors import Diverged
from cprec_jax.train.actions import Done, Log, Profile, Save, Stop
from cprec_jax.train.state import TrainState
from cprec_jax.train.validate import Validate

Step = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The batch of a step; the first step is 1.

    rows: this process's rows, on the host, for messages. arrays: the global arrays of all processes.
    """

    step: int
    rows: Mapping[str, np.ndarray]
    arrays: Mapping[str, jax.Array]


def train_loop(
    state: TrainState,
    frozen: Any,
    batches: Iterable[Batch],
    train_step: Step,
    *,
    log: Log,
    save: Save,
    stop: Stop,
    profile: Profile,
    validate: Validate | None = None,
    ledger: Ledger | None = None,
) -> TrainState:
    """Train one step per batch, and return the last state. Raises `Diverged`, and `Preempted` after a stop signal."""
    pending: Done | None = None  # a step that is not logged yet
    before: Done | None = None
    ledger = ledger or Ledger(None)

    def is_idle() -> bool:
        return _is_ready(before)

    try:
        with contextlib.ExitStack() as steady:
            for number, batch in enumerate(ledger.waited_for(batches, is_idle)):
                if number == 1:
                    steady.enter_context(jax.transfer_guard("disallow"))
                profile(batch.step - 1, state)
                ledger.turn_to_step(batch.step)
                with contextlib.nullcontext() if number else ledger.phase("compile"):
                    state, metrics = train_step(state, frozen, batch.arrays)
                done = Done(step=batch.step, metrics=metrics, rows=batch.rows)
                stopping = stop.is_asked(before)  # asked once, so that the step that stops is the one that is saved
                saving = stopping or save.is_due(done.step)
                values_of_state = None
                if validate is not None and validate.is_due(done.step) and not stopping:  # no time after SIGTERM
                    values_of_state = functools.partial(validate, state, frozen)
                log_now = saving or values_of_state is not None
                # Reading a step's metrics waits for the step; reading the previous step's keeps the device busy.
                if pending is not None:
                    log(pending)
                    ledger.done(pending.step)
                if log_now:
                    log(done, values_of_state)
                    ledger.done(done.step)
                pending = None if log_now else done
                before = done
                if saving:
                    with ledger.phase("save"):
                        save(state, durable=stopping)
                    ledger.write()
                if stopping:
                    stop(done.step)
    except Diverged:
        # The next step is in flight, and on CPUs its collectives could block whatever comes after.
        jax.block_until_ready(state)
        raise
    finally:
        profile.close(state)
        log.close()
    return state


def _is_ready(done: Done | None) -> bool:
    """Whether the devices have finished a step; True for None."""
    values: Any = () if done is None else done.metrics.values()
    return all(value.is_ready() for value in values)
