"""Prompts encoded once: their keys and values, which titles then attend to without a copy for each title.

B users, P prompt length, n nodes or tokens after the prompt, H query heads, K key/value heads, G = H / K, h head dim.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cprec_jax.model.attention import packed_attention
from cprec_jax.model.decoder import Decoder

# Scores are made for so many (query, prompt token, head) triples at a time; on a CPU that keeps them in the cache.
_PAIRS = {"cpu": 2**18}
_PAIRS_ACCELERATOR = 2**26


@flax.struct.dataclass
class PromptCache:
    """keys and values [L, B, P, K, h] after rotation; `last_BD` is the hidden state of each prompt's last token (it
    predicts the first token of a title); `length_B` int32, keys from there on are padding."""

    keys: jax.Array
    values: jax.Array
    last_BD: jax.Array
    length_B: jax.Array


@flax.struct.dataclass
class Attended:
    """Attention to some of the keys, in float32 and not yet normalised: the highest score, the sum of exp(score - top),
    and the values weighted by those."""

    top_BKGn: jax.Array
    total_BKGn: jax.Array
    out_BKGnh: jax.Array


def encode_prompts(
    decoder: Decoder, params: Any, tokens_BP: jax.Array, length_B: jax.Array, *, from_end: bool = False
) -> PromptCache:
    """Run the prompts (padded on the right) through the decoder once.

    from_end: count positions from the end, so that what follows a prompt starts at 0 for every user (attention knows
    only distances).
    """
    P = tokens_BP.shape[1]
    index_BP = jnp.broadcast_to(jnp.arange(P, dtype=jnp.int32), tokens_BP.shape)
    segments_BP = (index_BP < length_B[:, None]).astype(jnp.int32)
    positions_BP = index_BP - length_B[:, None] if from_end else index_BP
    plain = decoder.clone(attend=packed_attention())
    encoded: Any = plain.apply({"params": params}, tokens_BP, positions_BP, (segments_BP,), return_kv=True)
    x_BPD, (keys, values) = encoded
    last_BD = jnp.take_along_axis(x_BPD, (length_B - 1)[:, None, None], axis=1)[:, 0]
    return PromptCache(keys=keys, values=values, last_BD=last_BD, length_B=length_B)


def by_head(q_BnHh: jax.Array, kv_heads: int) -> jax.Array:
    """Scaled q_BKGnh: the layout in which the products of attention are plain batched matrix products."""
    B, n, H, h = q_BnHh.shape
    return (q_BnHh * h**-0.5).reshape(B, n, kv_heads, H // kv_heads, h).transpose(0, 2, 3, 1, 4)


def by_position(o_BKGnh: jax.Array) -> jax.Array:
    B, K, G, n, h = o_BKGnh.shape
    return o_BKGnh.transpose(0, 3, 1, 2, 4).reshape(B, n, K * G, h)


def attend_keys(
    q_BKGnh: jax.Array, k_BSKh: jax.Array, v_BSKh: jax.Array, visible_BnS: jax.Array, softcap: float | None
) -> Attended:
    """Attention of scaled queries to some keys and values. A query that sees nothing gets the lowest `top`, so that
    `merge` drops it."""
    B, K, G, n, h = q_BKGnh.shape
    k_BKSh, v_BKSh = k_BSKh.swapaxes(1, 2), v_BSKh.swapaxes(1, 2)
    scores = jnp.matmul(q_BKGnh.reshape(B, K, G * n, h), k_BKSh.swapaxes(2, 3), preferred_element_type=jnp.float32)
    scores = scores.reshape(B, K, G, n, -1)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(visible_BnS[:, None, None], scores, jnp.finfo(jnp.float32).min)
    top = jnp.max(scores, axis=-1)
    weights = jnp.exp(scores - top[..., None])
    out = jnp.matmul(weights.astype(v_BKSh.dtype).reshape(B, K, G * n, -1), v_BKSh, preferred_element_type=jnp.float32)
    return Attended(top_BKGn=top, total_BKGn=jnp.sum(weights, axis=-1), out_BKGnh=out.reshape(B, K, G, n, h))


def attend_prompt(
    q_BKGnh: jax.Array,
    keys_BPKh: jax.Array,
    values_BPKh: jax.Array,
    length_B: jax.Array,
    after_Bn: jax.Array,
    window: int | jax.Array | None,
    softcap: float | None,
) -> Attended:
    """Attention of scaled queries to their user's prompt, a piece of the queries at a time.

    `after_Bn`: how many positions after the prompt's last token a query stands, less one (0 = directly after it).
    """
    B, K, G, n = q_BKGnh.shape[:4]
    P = keys_BPKh.shape[1]
    key_BP = jnp.arange(P) - length_B[:, None]  # counted from the end of the prompt

    def piece(part: tuple[jax.Array, jax.Array]) -> Attended:
        q, after = part
        visible = jnp.broadcast_to(key_BP[:, None] < 0, (B, after.shape[1], P))
        if window is not None:
            visible &= after[:, :, None] - key_BP[:, None] < window
        return attend_keys(q, keys_BPKh, values_BPKh, visible, softcap)

    size = max(16, _PAIRS.get(jax.default_backend(), _PAIRS_ACCELERATOR) // (B * P * K * G))
    if size >= n:
        return piece((q_BKGnh, after_Bn))
    pieces = -(-n // size)
    size = -(-n // pieces)
    pad = pieces * size - n

    def cut(x: jax.Array, axis: int) -> jax.Array:
        x = jnp.pad(x, [(0, pad if a == axis else 0) for a in range(x.ndim)])
        return jnp.moveaxis(x.reshape(*x.shape[:axis], pieces, size, *x.shape[axis + 1 :]), axis, 0)

    parts = jax.lax.map(piece, (cut(q_BKGnh, 3), cut(after_Bn, 1)))

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 3)
        return x.reshape(*x.shape[:3], pieces * size, *x.shape[5:])[:, :, :, :n]

    return jax.tree.map(join, parts)


def join_rows(parts: Attended, users: int) -> Attended:
    """Attention that was done in rows [users * C, ..., n] (candidates, blocks) as that of the users' C * n queries."""

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x.reshape(users, -1, *x.shape[1:]), 1, 3)
        return x.reshape(*x.shape[:3], -1, *x.shape[5:])

    return jax.tree.map(join, parts)


def merge(a: Attended, b: Attended) -> jax.Array:
    """One softmax over the keys of both parts together: o_BKGnh, float32."""
    top = jnp.maximum(a.top_BKGn, b.top_BKGn)
    share_a, share_b = jnp.exp(a.top_BKGn - top), jnp.exp(b.top_BKGn - top)
    total = share_a * a.total_BKGn + share_b * b.total_BKGn
    return (share_a / total)[..., None] * a.out_BKGnh + (share_b / total)[..., None] * b.out_BKGnh
