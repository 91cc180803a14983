"""What every objective is: a loss as sums over rows, so that micro-batches add up, with the weights that the sums are
divided by."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np


class Objective(Protocol):
    """A loss of one or several terms, its metrics, and the columns of a batch that it reads.

    The loss of a global batch is the sum over `terms` of sums[term] / weights[term]. A term with a factor has it in its
    sum. What is summed beside the terms (hits, margins) is reported by its name, as sums[name] / weights[name].
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a batch that go to the device."""
        ...

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the sums that make up the loss, at least one."""
        ...

    @property
    def row_columns(self) -> Callable[[Mapping[str, Any]], dict[str, np.ndarray]]:
        """row_columns(row): the columns that a stored row (`data.rows`) needs beside those of `data.rows.expand`, of
        the same shapes for every row. The function itself goes to the loader's processes: it can be pickled, and holds
        no device array."""
        ...

    def weights(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """By name of a sum, what it is divided by, over a whole global batch and before any gradient: float32
        scalars."""
        ...

    def sums(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """The sums over some rows, with the names of `weights`: float32 scalars. key: for dropout; None is without."""
        ...

    def counts(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """What is counted of a global batch; `padding_free` tokens are among it (the rate in the log is theirs)."""
        ...


def no_columns(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`row_columns` of an objective that needs none."""
    return {}
