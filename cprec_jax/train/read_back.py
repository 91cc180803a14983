"""Checkpoints read back and compared, one leaf at a time: what is said to be saved can be read."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


def differing_leaf(directory: Path, tree: Any) -> str | None:
    """The first leaf of `tree` that item `directory` of a checkpoint holds otherwise; None where it holds the same bits.

    Every process compares its own shards, and holds one leaf more at a time. What cannot be read raises whatever orbax raises.
    """
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    leaves, structure = jax.tree.flatten(tree)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    try:
        for number, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
            wanted: list[Any] = [ocp.PLACEHOLDER] * len(leaves)
            wanted[number] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            item = jax.tree.unflatten(structure, wanted)
            arguments = ocp.args.PyTreeRestore(item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item))
            read = jax.tree.leaves(checkpointer.restore(directory, args=arguments))[number]
            if not _same_bits(read, leaf):
                return name
    finally:
        checkpointer.close()
    return None


def _same_bits(one: jax.Array, other: jax.Array) -> bool:
    pairs = zip(one.addressable_shards, other.addressable_shards, strict=True)
    return all(a.index == b.index and np.asarray(a.data).tobytes() == np.asarray(b.data).tobytes() for a, b in pairs)
