"""The protocol of objectives: a loss as sums over rows, which add up over micro-batches, and the sums' divisors."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np


class Objective(Protocol):
    """A loss of one or several terms, its metrics, and the columns of a batch that it reads.

    The loss of a global batch is the sum over `terms` of sums[term] / weights[term]. The factor of a term is part of
    its sum. Further sums (hits, margins) are reported by name as sums[name] / weights[name].
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a batch that are put on the devices."""
        ...

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the sums that make up the loss, at least one."""
        ...

    @property
    def row_columns(self) -> Callable[[Mapping[str, Any]], dict[str, np.ndarray]]:
        """row_columns(row): the columns of a stored row (`rows.dataset`) in addition to those of `rows.dataset.expand`.

        Their shapes are the same for every row. The function is sent to the loader's worker processes, so it must
        support pickling and hold no device array.
        """
        ...

    def weights(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The divisor of each sum by name, over a whole global batch: float32 scalars. Computed before any gradient."""
        ...

    def sums(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """The sums over some rows, with the names of `weights`: float32 scalars. key: for dropout; None: without."""
        ...

    def counts(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Counts of a global batch, by name. `padding_free`, tokens without padding, gives the logged token rate."""
        ...


def no_columns(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`row_columns` of an objective that adds none."""
    return {}
