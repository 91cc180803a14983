"""A global batch over several processes: which of its rows a process must load, and the arrays that they become
together."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Sharding


def rows_held(sharding: Sharding, global_batch: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, ascending: int64[local rows].

    Asked from the sharding, because they do not follow from the process's number: a mesh may permute devices (TPU), and
    an axis that the batch is not sharded over (`tensor`) may lie across processes, which then hold the same rows.
    """
    indices = sharding.addressable_devices_indices_map((global_batch,)).values()
    return np.unique(np.concatenate([np.arange(global_batch)[index] for index in indices]))


def assemble(
    local: Mapping[str, np.ndarray], held: np.ndarray, sharding: Sharding, global_batch: int
) -> dict[str, jax.Array]:
    """Global arrays [global_batch, ...] from the rows `held` (`rows_held`) of each, which this process has loaded in
    that order."""

    def global_array(value: np.ndarray) -> jax.Array:
        assert len(value) == len(held), (value.shape, len(held))

        def block(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(global_batch)
            # a block of ascending rows that are all held is a block here, too
            first = int(np.searchsorted(held, start))
            return value[first : first + stop - start]

        with jax.transfer_guard_host_to_device("allow"):  # jax takes this for a transfer that nobody asked for
            return jax.make_array_from_callback((global_batch, *value.shape[1:]), sharding, block)

    return {name: global_array(value) for name, value in local.items()}
