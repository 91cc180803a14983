"""The loop: dispatch a step, then log the one before. What happens between steps are named actions (`actions.py`)."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from cprec_jax.errors import Diverged
from cprec_jax.train.actions import Done, Log, Profile, Save, Stop
from cprec_jax.train.state import TrainState

Step = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of a step (the first is 1): this process's on the host, for messages, and the global arrays of all processes."""

    step: int
    rows: Mapping[str, np.ndarray]
    arrays: Mapping[str, jax.Array]


def train_loop(
    state: TrainState, frozen: Any, batches: Iterable[Batch], train_step: Step, *, log: Log, save: Save, stop: Stop, profile: Profile
) -> TrainState:
    """Take a step per batch. From the second one on, nothing moves between host and device unless it is asked for by name."""
    pending: Done | None = None
    try:
        with contextlib.ExitStack() as steady:
            for number, batch in enumerate(batches):
                if number == 1:
                    steady.enter_context(jax.transfer_guard("disallow"))
                profile(batch.step - 1, state)
                state, metrics = train_step(state, frozen, batch.arrays)
                done = Done(step=batch.step, metrics=metrics, rows=batch.rows)
                stopping = stop.is_asked()  # asked once: what stops is what was saved
                saving = stopping or save.is_due(done.step)
                # Reading a step's metrics waits for it; reading those of the one before keeps the device busy.
                for each in ([pending] if pending else []) + ([done] if saving else []):
                    log(each)
                pending = None if saving else done
                if saving:
                    save(state)
                if stopping:
                    stop(done.step)
    except Diverged:
        jax.block_until_ready(state)  # the next step is in flight, and on CPUs its collectives could block whatever comes after
        raise
    finally:
        profile.close(state)
        log.close()
    return state
