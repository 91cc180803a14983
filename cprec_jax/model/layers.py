"""Linear projections, RMSNorm and rotary embedding. B batch, T length, D model, H heads, h head dim."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from cprec_jax.model.config import DecoderConfig, RopeScaling

PROJECTION = "projection"  # for policies of `jax.checkpoint`, which do not see into a function with its own gradient
ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": lambda x: nn.gelu(x, approximate=True)}


def weight(std: float, *axes: str) -> nn.initializers.Initializer:
    """A normal initializer with the parameter's logical axes, which `parallel/rules.py` maps to the mesh."""
    return nn.with_logical_partitioning(nn.initializers.normal(std), axes)


def bias(*axes: str) -> nn.initializers.Initializer:
    """A zero initializer with the parameter's logical axes."""
    return nn.with_logical_partitioning(nn.initializers.zeros_init(), axes)


def project(x: jax.Array, w: jax.Array, contracted: int = 1) -> jax.Array:
    """`product`, named `PROJECTION` for `jax.checkpoint`."""
    return checkpoint_name(product(x, w, contracted), PROJECTION)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, w: jax.Array, contracted: int = 1) -> jax.Array:
    """The product of x with weights w, contracted over the last `contracted` axes of x and the first of w.

    The backward pass computes the gradient of w with the narrower operand first. Why: a CPU transposes the first
    operand. By default that is the gradient of the output, at times fused with a recomputation of the activation's
    derivative.
    """
    axes = (tuple(range(x.ndim - contracted, x.ndim)), tuple(range(contracted)))
    return jax.lax.dot_general(x, w, (axes, ((), ())))


def _product_forward(x: jax.Array, w: jax.Array, contracted: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, w, contracted), (x, w)


def _product_backward(
    contracted: int, operands: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = operands
    free = x.ndim - contracted
    out_axes = (tuple(range(free, dy.ndim)), tuple(range(contracted, w.ndim)))
    dx = jax.lax.dot_general(dy, w, (out_axes, ((), ())))
    rows = (tuple(range(free)), tuple(range(free)))
    if math.prod(w.shape[:contracted]) <= math.prod(w.shape[contracted:]):
        return dx, jax.lax.dot_general(x, dy, (rows, ((), ())))
    transposed = jax.lax.dot_general(dy, x, (rows, ((), ())))
    n_out = w.ndim - contracted
    return dx, transposed.transpose(*range(n_out, w.ndim), *range(n_out))


product.defvjp(_product_forward, _product_backward)


def norm_scale(config: DecoderConfig) -> nn.initializers.Initializer:
    """The initializer with which a new norm multiplies by one."""
    fill = nn.initializers.zeros_init() if config.norm_plus_one else nn.initializers.ones_init()
    return nn.with_logical_partitioning(fill, ("norm",))


def residual_std(config: DecoderConfig) -> float:
    """Standard deviation of new projections into the residual stream.

    It is smaller than elsewhere, so that the stream's variance does not grow with depth (GPT-2, section 2.3).
    """
    return config.initializer_range / math.sqrt(2 * config.num_layers)


def rms_norm(x: jax.Array, scale: jax.Array, config: DecoderConfig) -> jax.Array:
    """Root-mean-square norm over the last axis, in float32; the result has the dtype of `x` (arXiv 1910.07467)."""
    x32 = x.astype(jnp.float32)
    normal = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + config.norm_eps)
    return (normal * (scale + 1.0 if config.norm_plus_one else scale)).astype(x.dtype)


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> jax.Array:
    """Radians per position, float32 [head_dim / 2] (arXiv 2104.09864), scaled by `scaling`."""
    frequency = 1.0 / (theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim))
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)  # in the original context
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = jnp.clip(keep, 0.0, 1.0)
    return keep * frequency + (1.0 - keep) * frequency / scaling.factor


def rope_tables(positions_BT: jax.Array, frequencies: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine, float32 [B, T, 1, head_dim / 2]."""
    angles = positions_BT.astype(jnp.float32)[..., None, None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x_BTHh: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotate the pairs (i, i + h/2) of every head: the half-split layout of Hugging Face checkpoints."""
    cos, sin = tables
    first, second = jnp.split(x_BTHh.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTHh.dtype)
