"""What the fused kernels share: one call per device, and a static window for layers that differ."""

from collections.abc import Callable

import jax

from cprec_jax.model.attention import NO_WINDOW
from cprec_jax.parallel.rules import spec_for

Kernel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
"""kernel(q_BTHh, k_BTKh, v_BTKh, segment_ids_BT) -> o_BTHh, on the arrays of one device."""


def on_each_device(
    kernel: Kernel, q_BTHh: jax.Array, k_BTKh: jax.Array, v_BTKh: jax.Array, segment_ids_BT: jax.Array
) -> jax.Array:
    """Run `kernel` under `jax.shard_map`: rows over the batch axes, heads over `tensor` where key/value heads divide.

    The partitioner cannot partition a custom kernel and would gather its inputs on every device. Without a mesh, or on
    one device, this is a plain call.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(q_BTHh, k_BTKh, v_BTKh, segment_ids_BT)
    batch = "batch" if q_BTHh.shape[0] > 1 else None
    heads = spec_for((batch, None, "kv_heads", None), k_BTKh.shape, mesh)  # queries too: a group stays with its keys
    rows = spec_for((batch, None), segment_ids_BT.shape, mesh)
    shards = jax.shard_map(kernel, mesh=mesh, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)
    return shards(q_BTHh, k_BTKh, v_BTKh, segment_ids_BT)


def with_static_window(
    run: Callable[[int | None], jax.Array], window: int | jax.Array | None, size: int | None
) -> jax.Array:
    """`run(window)` with a static window.

    Where layers differ, `window` is traced and is `size` or `NO_WINDOW`; both branches are compiled.
    """
    if window is None or isinstance(window, int):
        return run(window)
    assert size is not None
    return jax.lax.cond(window < NO_WINDOW, lambda: run(size), lambda: run(None))
