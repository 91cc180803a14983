"""Where a run's metrics go: one small protocol, and the loggers by their name in `config.train.loggers`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax


class Logger(Protocol):
    """Takes the metrics of steps, in ascending order."""

    def write(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """values: of one step, by name. seconds: wall time of the run up to then."""
        ...

    def close(self) -> None:
        """Nothing is written after it."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """What loggers may know about a run.

    directory: where it is. first_step: after which it starts or goes on; what earlier attempts wrote of later steps is written again.
    name: for people. facts: what the run is made from, as JSON.
    """

    directory: Path
    first_step: int
    name: str
    facts: Mapping[str, Any]


def open_loggers(names: Sequence[str], run: LoggedRun) -> list[Logger]:
    """The loggers by name, in the first process alone: all of them have the same metrics. One that is not installed is a `UserError`."""
    return [_MAKE[name](run) for name in names] if jax.process_index() == 0 else []


def _jsonl(run: LoggedRun) -> Logger:
    from cprec_jax.train.loggers.jsonl import Jsonl

    return Jsonl(run)


def _tensorboard(run: LoggedRun) -> Logger:
    from cprec_jax.train.loggers.tensorboard import TensorBoard

    return TensorBoard(run)


def _wandb(run: LoggedRun) -> Logger:
    from cprec_jax.train.loggers.wandb import Wandb

    return Wandb(run)


_MAKE: Mapping[str, Callable[[LoggedRun], Logger]] = {"jsonl": _jsonl, "tensorboard": _tensorboard, "wandb": _wandb}
