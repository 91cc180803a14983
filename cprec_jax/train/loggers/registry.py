"""The loggers by their name in `config.train.loggers`."""

from collections.abc import Callable, Mapping, Sequence

import jax

from cprec_jax.train.loggers.jsonl import Jsonl
from cprec_jax.train.loggers.logger import LoggedRun, Logger
from cprec_jax.train.loggers.tensorboard import TensorBoard
from cprec_jax.train.loggers.wandb import Wandb


def open_loggers(names: Sequence[str], run: LoggedRun) -> list[Logger]:
    """The loggers called `names`, in the first process; none in the others, which have the same metrics.

    Raises `UserError` for a logger that is not installed.
    """
    return [_MAKE[name](run) for name in names] if jax.process_index() == 0 else []


def _jsonl(run: LoggedRun) -> Logger:
    return Jsonl(run)


def _tensorboard(run: LoggedRun) -> Logger:
    return TensorBoard(run)


def _wandb(run: LoggedRun) -> Logger:
    return Wandb(run)


_MAKE: Mapping[str, Callable[[LoggedRun], Logger]] = {"jsonl": _jsonl, "tensorboard": _tensorboard, "wandb": _wandb}
