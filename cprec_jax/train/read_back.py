"""Checkpoints read, and read back and compared one leaf at a time: what is said to be saved can be read.

Every process reads its own shards and waits for no other: one of several may find damage where the others find none.
Whoever calls asks `in_any_process` afterwards, so that all go the same way.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cprec_jax.parallel import processes


def in_any_process(flag: bool) -> bool:
    """Whether the flag is set in any process. All must call."""
    return processes.any_of(flag)


@contextlib.contextmanager
def without_echoes() -> Iterator[None]:
    """Where one array cannot be read or saved, the others are given up: their threads and tasks tell so in a traceback
    each, some later.

    What is raised says it already.
    """
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    except BaseException:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    sys.unraisablehook = before


def read_item(directory: Path, abstract: Any) -> Any:
    """The tree of item `directory` of a checkpoint, sharded like `abstract`. What cannot be read raises whatever orbax
    raises."""
    with _reader(ocp.StandardCheckpointHandler()) as checkpointer:
        return checkpointer.restore(directory, args=ocp.args.StandardRestore(abstract))


def read_json_item(directory: Path) -> dict[str, Any]:
    """The object of a JSON item of a checkpoint. What cannot be read raises whatever orbax raises."""
    with _reader(ocp.JsonCheckpointHandler()) as checkpointer:
        return dict(checkpointer.restore(directory, args=ocp.args.JsonRestore()))


def _reader(handler: Any) -> ocp.Checkpointer:
    """A checkpointer that meets no other process: by default all wait for one another at the end, for ever where one
    has failed."""
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process {this}"
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def differing_leaf(directory: Path, tree: Any) -> str | None:
    """The first leaf of `tree` that item `directory` of a checkpoint holds otherwise; None where it holds the same
    bits.

    Every process compares its own shards, and holds one leaf more at a time. What cannot be read raises whatever orbax
    raises.
    """
    leaves, structure = jax.tree.flatten(tree)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    with _reader(ocp.PyTreeCheckpointHandler()) as checkpointer:
        for number, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
            wanted: list[Any] = [ocp.PLACEHOLDER] * len(leaves)
            wanted[number] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            item = jax.tree.unflatten(structure, wanted)
            arguments = ocp.args.PyTreeRestore(
                item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item)
            )
            read = jax.tree.leaves(checkpointer.restore(directory, args=arguments))[number]
            if not _same_bits(read, leaf):
                return name
    return None


def _same_bits(first: jax.Array, second: jax.Array) -> bool:
    pairs = zip(first.addressable_shards, second.addressable_shards, strict=True)
    return all(a.index == b.index and np.asarray(a.data).tobytes() == np.asarray(b.data).tobytes() for a, b in pairs)
