"""A global batch over several processes: which of its rows a process must load, and the global arrays made of them."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Sharding


def rows_held(sharding: Sharding, global_batch: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, ascending: int64[local rows].

    They follow from the sharding, not from the process's number: a mesh may permute devices (TPU), and an axis that the
    batch is not sharded over (`tensor`) may span processes, which then hold the same rows.
    """
    indices = sharding.addressable_devices_indices_map((global_batch,)).values()
    return np.unique(np.concatenate([np.arange(global_batch)[index] for index in indices]))


def assemble(
    local: Mapping[str, np.ndarray], held: np.ndarray, sharding: Sharding, global_batch: int
) -> dict[str, jax.Array]:
    """Global arrays [global_batch, ...] of `local` columns, which hold this process's rows in the order of `held`
    (`rows_held`)."""

    def global_array(value: np.ndarray) -> jax.Array:
        assert len(value) == len(held), (value.shape, len(held))

        def block(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(global_batch)
            # contiguous rows of the global batch are contiguous in `value`, too
            first = int(np.searchsorted(held, start))
            return value[first : first + stop - start]

        with jax.transfer_guard_host_to_device("allow"):  # the guard counts this as an implicit transfer
            return jax.make_array_from_callback((global_batch, *value.shape[1:]), sharding, block)

    return {name: global_array(value) for name, value in local.items()}
