"""Attention to a part of the keys, not normalised, so that parts can be merged into one softmax over all keys.

B batch, T query length, S key length, H query heads, K key/value heads, G = H / K, h head dim.
"""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Attended:
    """Of each query, float32: the maximum score, the sum of exp(score - maximum), and the values summed with these
    weights."""

    top_BKGT: jax.Array
    total_BKGT: jax.Array
    out_BKGTh: jax.Array


def by_head(q_BTHh: jax.Array, kv_heads: int) -> jax.Array:
    """q_BKGTh scaled by h ** -0.5, in the layout in which attention is plain batched matrix products."""
    B, T, H, h = q_BTHh.shape
    return (q_BTHh * h**-0.5).reshape(B, T, kv_heads, H // kv_heads, h).transpose(0, 2, 3, 1, 4)


def by_position(o_BKGTh: jax.Array) -> jax.Array:
    """The inverse layout of `by_head`: o_BTHh."""
    B, K, G, T, h = o_BKGTh.shape
    return o_BKGTh.transpose(0, 3, 1, 2, 4).reshape(B, T, K * G, h)


def attend_by_head(
    q_BKGTh: jax.Array, k_BKSh: jax.Array, v_BKSh: jax.Array, visible_BTS: jax.Array, softcap: float | None
) -> Attended:
    """Attention of scaled queries to the keys where `visible_BTS` is True. The heads of a group share one product.

    A query that sees no key gets the lowest `top_BKGT`, so that `merge` gives this part no weight.
    """
    B, K, G, T, h = q_BKGTh.shape
    rows_BKRh = q_BKGTh.reshape(B, K, G * T, h)
    scores_BKRS = jnp.matmul(rows_BKRh, k_BKSh.swapaxes(2, 3), preferred_element_type=jnp.float32)
    scores_BKGTS = scores_BKRS.reshape(B, K, G, T, -1)
    if softcap is not None:
        scores_BKGTS = softcap * jnp.tanh(scores_BKGTS / softcap)
    scores_BKGTS = jnp.where(visible_BTS[:, None, None], scores_BKGTS, jnp.finfo(jnp.float32).min)
    top_BKGT = jax.lax.stop_gradient(scores_BKGTS.max(axis=-1))  # any value gives the same softmax
    weights_BKGTS = jnp.exp(scores_BKGTS - top_BKGT[..., None])
    weights_BKRS = weights_BKGTS.astype(v_BKSh.dtype).reshape(B, K, G * T, -1)
    out_BKRh = jnp.matmul(weights_BKRS, v_BKSh, preferred_element_type=jnp.float32)
    return Attended(top_BKGT=top_BKGT, total_BKGT=weights_BKGTS.sum(axis=-1), out_BKGTh=out_BKRh.reshape(B, K, G, T, h))


def attend_keys(
    q_BKGTh: jax.Array, k_BSKh: jax.Array, v_BSKh: jax.Array, visible_BTS: jax.Array, softcap: float | None
) -> Attended:
    """`attend_by_head` for keys and values in the layout [B, S, K, h]."""
    return attend_by_head(q_BKGTh, k_BSKh.swapaxes(1, 2), v_BSKh.swapaxes(1, 2), visible_BTS, softcap)


def normalise(part: Attended) -> jax.Array:
    """The softmax over the keys of one part: o_BKGTh, float32.

    Division comes last, on h numbers per query instead of S.
    """
    return part.out_BKGTh / part.total_BKGT[..., None]


def merge(a: Attended, b: Attended) -> jax.Array:
    """One softmax over the keys of both parts together: o_BKGTh, float32."""
    top = jnp.maximum(a.top_BKGT, b.top_BKGT)
    share_a, share_b = jnp.exp(a.top_BKGT - top), jnp.exp(b.top_BKGT - top)
    total = share_a * a.total_BKGT + share_b * b.total_BKGT
    return (share_a / total)[..., None] * a.out_BKGTh + (share_b / total)[..., None] * b.out_BKGTh


def join_rows(parts: Attended, users: int) -> Attended:
    """Parts over rows [users * C, ..., T], C candidates or blocks per user, reshaped to C * T queries per user."""

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x.reshape(users, -1, *x.shape[1:]), 1, 3)
        return x.reshape(*x.shape[:3], -1, *x.shape[5:])

    return jax.tree.map(join, parts)
