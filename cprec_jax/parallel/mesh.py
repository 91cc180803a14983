"""The device mesh: axes `data` (batch), `fsdp` (batch and parameters), `tensor` (heads, feed-forward, vocabulary)."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from cprec_jax.errors import UserError
from cprec_jax.parallel import tpu_lock

AXES = ("data", "fsdp", "tensor")


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all `devices` (default: every device) with Auto axes, for `jax.set_mesh`.

    One size may be -1: the rest of the devices. Raises `UserError` where the product of the sizes is not the number of
    devices, and where another process holds the TPU.
    """
    devices = jax.devices() if devices is None else list(devices)
    tpu_lock.refuse_fallback()
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    sizes_given = ", ".join(f"{name}={size}" for name, size in sizes.items())
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"mesh {sizes_given}: only one axis may be -1 (the rest of the devices)")
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"mesh {sizes_given}: sizes must be positive, or -1 for the rest of the devices")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        raise UserError(
            f"mesh {sizes_given} does not fit {len(devices)} device(s); the product must be the number of devices, or "
            "set one axis to -1"
        )
    # Auto axes: make_mesh's default became Explicit in jax 0.9. Shape and names by position: the parameters have other
    # names in 0.10 than in 0.11.
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
