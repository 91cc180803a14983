"""Prompts encoded once: their keys and values, which titles then attend to without a copy for each title.

B users, P prompt length, n nodes or tokens after the prompt, H query heads, K key/value heads, G = H / K, h head dim.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cprec_jax.model.attention import packed_attention
from cprec_jax.model.decoder import Decoder

# Scores are made for so many (node, prompt token) pairs at a time. On a CPU that keeps them in the cache, which makes attention three
# times as fast (256 nodes x 256 tokens x 3 heads: 53 ms against 160 ms for 13,312 nodes at once).
_PAIRS = {"cpu": 2**18}
_PAIRS_ACCELERATOR = 2**26


@flax.struct.dataclass
class PromptCache:
    """keys and values [L, B, P, K, h] after rotation; `last_BD` is the hidden state of each prompt's last token (it predicts the first
    token of a title); `length_B` int32, keys from there on are padding."""

    keys: jax.Array
    values: jax.Array
    last_BD: jax.Array
    length_B: jax.Array


@flax.struct.dataclass
class Attended:
    """Attention to some of the keys, in float32 and not yet normalised: the highest score, the sum of exp(score - top), and the values
    weighted by those."""

    top_BnKG: jax.Array
    total_BnKG: jax.Array
    out_BnKGh: jax.Array


def encode_prompts(decoder: Decoder, params: Any, tokens_BP: jax.Array, length_B: jax.Array) -> PromptCache:
    """Run the prompts (padded on the right) through the decoder once."""
    P = tokens_BP.shape[1]
    positions_BP = jnp.broadcast_to(jnp.arange(P, dtype=jnp.int32), tokens_BP.shape)
    segments_BP = (positions_BP < length_B[:, None]).astype(jnp.int32)
    plain = decoder.clone(attend=packed_attention())
    encoded: Any = plain.apply({"params": params}, tokens_BP, positions_BP, (segments_BP,), return_kv=True)
    x_BPD, (keys, values) = encoded
    last_BD = jnp.take_along_axis(x_BPD, (length_B - 1)[:, None, None], axis=1)[:, 0]
    return PromptCache(keys=keys, values=values, last_BD=last_BD, length_B=length_B)


def attend_keys(
    q_BnKGh: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visible: jax.Array,
    softcap: float | None,
    own: str = "",
) -> Attended:
    """Attention of scaled queries to keys and values [B, S, K, h], or with `own="n"` to those of each node alone, [B, n, S, K, h].

    `visible` is a mask that broadcasts to [B, n, 1, 1, S]. A query that sees nothing gets the lowest `top`, so that `merge` drops it.
    """
    scores = jnp.einsum(f"BnKGh,B{own}SKh->BnKGS", q_BnKGh, k, preferred_element_type=jnp.float32)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    top = jnp.max(scores, axis=-1)
    weights = jnp.exp(scores - top[..., None])
    out = jnp.einsum(f"BnKGS,B{own}SKh->BnKGh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return Attended(top_BnKG=top, total_BnKG=jnp.sum(weights, axis=-1), out_BnKGh=out)


def attend_prompt(
    q_BnKGh: jax.Array,
    keys_BPKh: jax.Array,
    values_BPKh: jax.Array,
    length_B: jax.Array,
    position_Bn: jax.Array,
    window: int | jax.Array | None,
    softcap: float | None,
) -> Attended:
    """Attention of scaled queries at `position_Bn` to their user's prompt, a piece of the queries at a time."""
    B, n, K, G = q_BnKGh.shape[:4]
    P = keys_BPKh.shape[1]
    key = jnp.arange(P)

    def piece(part: tuple[jax.Array, jax.Array]) -> Attended:
        q, position = part
        visible = key < length_B[:, None, None]
        if window is not None:
            visible &= position[:, :, None] - key < window
        return attend_keys(q, keys_BPKh, values_BPKh, visible[:, :, None, None], softcap)

    size = max(16, _PAIRS.get(jax.default_backend(), _PAIRS_ACCELERATOR) // (B * P * K * G))
    if size >= n:
        return piece((q_BnKGh, position_Bn))
    pieces = -(-n // size)
    size = -(-n // pieces)
    pad = pieces * size - n

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, pad), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(B, pieces, size, *x.shape[2:]), 1, 0)

    parts = jax.lax.map(piece, (cut(q_BnKGh), cut(position_Bn)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(B, pieces * size, *x.shape[3:])[:, :n], parts)


def merge(a: Attended, b: Attended) -> jax.Array:
    """One softmax over the keys of both parts together: o_BnKGh, float32."""
    top = jnp.maximum(a.top_BnKG, b.top_BnKG)
    share_a, share_b = jnp.exp(a.top_BnKG - top), jnp.exp(b.top_BnKG - top)
    total = share_a * a.total_BnKG + share_b * b.total_BnKG
    return (share_a / total)[..., None] * a.out_BnKGh + (share_b / total)[..., None] * b.out_BnKGh
