"""Low-rank adapters beside the weights of linear layers (LoRA, arXiv 2106.09685), stacked over layers like the weights.

The adapter of a weight [in ..., out ...] is A [in ..., r] and B [r, out ...], parameters of the same module whose names
end in `_lora_a` and `_lora_b`. A is initialised uniform within 1 / sqrt(in) (He), B with zeros, so that a new adapter
changes nothing.

B batch, T length, L layers, r rank.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cprec_jax.model.layers import product, project
from cprec_jax.parallel.rules import constrain

A, B = "_lora_a", "_lora_b"
UNROLLED = 8  # outer products added per pass over a weight


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """The adapters of a decoder.

    weights: which weights of a layer have one, by their names inside `layers`, such as `attention/q`.
    rank, scale: of every adapter, which adds scale * A B to its weight.
    dropout: rate on an adapter's input in training.
    """

    weights: tuple[str, ...]
    rank: int
    scale: float
    dropout: float = 0.0


def add_adapter(
    module: nn.Module,
    adapters: Adapters | None,
    name: str,
    y: jax.Array,
    x: jax.Array,
    w_axes: Sequence[str],
    w_shape: Sequence[int],
    *,
    contracted: int = 1,
    deterministic: bool = True,
) -> jax.Array:
    """y + scale * (x A) B where the weight `name` of `module` has an adapter, else y. Call it inside `nn.compact`.

    Args:
      y: the product of x with the weight.
      w_axes, w_shape: logical axes and shape of the weight; its first `contracted` axes are the last of x.
      deterministic: no dropout on x.
    """
    if adapters is None or f"{module.name}/{name}" not in adapters.weights:
        return y
    r = adapters.rank
    limit = 1 / math.sqrt(math.prod(w_shape[:contracted]))
    he = nn.with_logical_partitioning(_uniform(limit), (*w_axes[:contracted], "rank"))
    zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("rank", *w_axes[contracted:]))
    a: Any = module.param(f"{name}{A}", he, (*w_shape[:contracted], r))
    b: Any = module.param(f"{name}{B}", zeros, (r, *w_shape[contracted:]))
    if adapters.dropout and not deterministic:
        x = nn.Dropout(adapters.dropout, deterministic=False)(x)
    xa_BTr = constrain(project(x, a.astype(x.dtype), contracted), "batch", "length", None)
    # unlike y not stored for the backward pass: it is as large, and cheap to recompute
    return y + product(xa_BTr * jnp.asarray(adapters.scale, x.dtype), b.astype(x.dtype))


def _uniform(limit: float) -> Any:
    def draw(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return draw


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is part of an adapter."""
    return name.endswith((A, B))


def merged(params: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """The parameters of the model without adapters: W + scale * A B, in float32.

    Args:
      params: of a decoder with adapters, float32.
      scale: of the adapters.
    """

    def merged_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
        merged_leaves: dict[str, Any] = {}
        for name, leaf in tree.items():
            if isinstance(leaf, Mapping):
                merged_leaves[name] = merged_tree(leaf)
            elif not is_adapter(name):
                merged_leaves[name] = (
                    _sum(leaf, tree[f"{name}{A}"], tree[f"{name}{B}"], scale) if f"{name}{A}" in tree else leaf
                )
        return merged_leaves

    return merged_tree(params)


@jax.jit
def _sum(w: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """A weight [L, in ..., out ...] plus `scale` times its adapter, A [L, in ..., r] and B [L, r, out ...].

    A sum of outer products, not a matrix product, whose order of summation depends on the sizes: so no bit of the
    result depends on the sharding.
    """
    n_in, n_out = a.ndim - 2, b.ndim - 2

    def add(index: Any, total: jax.Array) -> jax.Array:
        left = jax.lax.dynamic_index_in_dim(a, index, a.ndim - 1, keepdims=False)
        right = jax.lax.dynamic_index_in_dim(b, index, 1, keepdims=False)
        left, right = (
            jnp.expand_dims(left, tuple(range(1 + n_in, 1 + n_in + n_out))),
            jnp.expand_dims(right, tuple(range(1, 1 + n_in))),
        )
        return total + left * right

    return w + scale * jax.lax.fori_loop(0, a.shape[-1], add, jnp.zeros_like(w), unroll=min(UNROLLED, a.shape[-1]))
