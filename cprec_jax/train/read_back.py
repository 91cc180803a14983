"""Reads checkpoints, and compares saved ones with the arrays leaf by leaf, so that what counts as saved can be read.

Every process reads its own shards and waits for no other, because one process may find damage where the others find
none. Callers ask `in_any_process` afterwards, so that all take the same branch.
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
    """Whether the flag is set in any process. All processes must call."""
    return processes.any_of(flag)


@contextlib.contextmanager
def without_echoes() -> Iterator[None]:
    """Silence the follow-up tracebacks of a failed read or save.

    Where one array fails, orbax cancels the others, and each of their threads and tasks prints a traceback, some later.
    The exception that is raised has the reason.
    """
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    except BaseException:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    sys.unraisablehook = before


def read_item(directory: Path, abstract: Any) -> Any:
    """The tree of item `directory` of a checkpoint, sharded like `abstract`. Raises what orbax raises."""
    with _reader(ocp.StandardCheckpointHandler()) as checkpointer:
        return checkpointer.restore(directory, args=ocp.args.StandardRestore(abstract))


def read_json_item(directory: Path) -> dict[str, Any]:
    """The object of a JSON item of a checkpoint. Raises what orbax raises."""
    with _reader(ocp.JsonCheckpointHandler()) as checkpointer:
        return dict(checkpointer.restore(directory, args=ocp.args.JsonRestore()))


def _reader(handler: Any) -> ocp.Checkpointer:
    """A checkpointer without barriers: by default all processes wait for one another, forever where one has failed."""
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process {this}"
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def differing_leaf(directory: Path, tree: Any) -> str | None:
    """The name of the first leaf of `tree` whose bits differ in item `directory` of a checkpoint; None: all are equal.

    Every process compares its own shards, and holds one additional leaf at a time. Raises what orbax raises.
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
