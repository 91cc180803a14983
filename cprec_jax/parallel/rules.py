"""One table from logical axis names to mesh axes, and the shardings that follow from it."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from cprec_jax.progress import say

RULES: dict[str, tuple[str, ...]] = {
    # parameters and activations
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "head_dim": (),
    # parameters only: fully sharded over fsdp along the model axis, gathered by the compiler where they are used
    "embed": ("fsdp",),
    "norm": (),
    "rank": (),  # of an adapter: too narrow to be worth sharding
    "layers": (),
    # activations only
    "batch": ("data", "fsdp"),
    "length": (),
}


@functools.cache
def _warn_once(logical: str, size: int, mesh_axis: str, mesh_size: int) -> None:
    where = f"{mesh_size} devices of mesh axis {mesh_axis!r}"
    say(f"warning: axis {logical!r} of size {size} does not divide over {where}; it is not sharded there")


def spec_for(logical_axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The `PartitionSpec` of an array with these logical axes and this shape; None is an axis that is not sharded.

    A mesh axis whose size does not divide the array's axis is dropped, with a warning once. An unknown logical name is
    a `KeyError`, a mesh axis that is used twice an `AssertionError`: both are bugs.
    """
    assert len(logical_axes) == len(shape), (logical_axes, shape)
    used: set[str] = set()
    entries: list[tuple[str, ...] | str | None] = []
    for name, size in zip(logical_axes, shape, strict=True):
        axes: list[str] = []
        for axis in RULES[name] if name is not None else ():
            if mesh.shape.get(axis, 1) == 1:
                continue
            assert axis not in used, f"mesh axis {axis!r} is used twice by {tuple(logical_axes)}"
            if size % (mesh.shape[axis] * math.prod(mesh.shape[a] for a in axes)):
                _warn_once(str(name), size, axis, mesh.shape[axis])
                continue
            used.add(axis)
            axes.append(axis)
        entries.append(axes[0] if len(axes) == 1 else tuple(axes) or None)
    return PartitionSpec(*entries)


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
    """Constrain the sharding of an activation by its logical axes. No operation without `jax.set_mesh` or on one
    device.

    Without the constraint the compiler may gather whole activations: 23.8 instead of 2.1 GB of temporaries per device
    in a step of a 1.2B model.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    # an axis of size 1 is never sharded, and needs no warning
    names = [name if size > 1 else None for name, size in zip(logical_axes, x.shape, strict=True)]
    return jax.lax.with_sharding_constraint(x, spec_for(names, x.shape, mesh))


def param_shardings(mesh: Mesh, shapes: Any, logical_axes: Any) -> Any:
    """The `NamedSharding` of each parameter, from the two results of `decoder.abstract_params`."""
    return jax.tree.map(lambda leaf, axes: NamedSharding(mesh, spec_for(axes, leaf.shape, mesh)), shapes, logical_axes)


def batch_sharding(mesh: Mesh, rows: int) -> NamedSharding:
    """The sharding of any array whose leading axis is a batch of `rows`; its other axes are not sharded."""
    return NamedSharding(mesh, spec_for(("batch",), (rows,), mesh))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on each device."""
    return NamedSharding(mesh, PartitionSpec())
