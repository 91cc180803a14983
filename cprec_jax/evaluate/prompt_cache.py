"""Prompts encoded once: their keys and values, which titles then attend to without a copy for each title.

B users, P prompt length, n nodes or tokens after the prompt, A ancestors, H query heads, K key/value heads, G = H / K, h head dim.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cprec_jax.model.attention import packed_attention
from cprec_jax.model.decoder import Decoder


@flax.struct.dataclass
class PromptCache:
    """keys and values [L, B, P, K, h] after rotation; `visible_BP` is False on padding; `last_BD` is the hidden state of each prompt's
    last token (it predicts the first token of a title); `length_B` int32."""

    keys: jax.Array
    values: jax.Array
    visible_BP: jax.Array
    last_BD: jax.Array
    length_B: jax.Array


def encode_prompts(decoder: Decoder, params: Any, tokens_BP: jax.Array, length_B: jax.Array) -> PromptCache:
    """Run the prompts (padded on the right) through the decoder once."""
    P = tokens_BP.shape[1]
    positions_BP = jnp.broadcast_to(jnp.arange(P, dtype=jnp.int32), tokens_BP.shape)
    visible_BP = positions_BP < length_B[:, None]
    plain = decoder.clone(attend=packed_attention())
    encoded: Any = plain.apply({"params": params}, tokens_BP, positions_BP, (visible_BP.astype(jnp.int32),), return_kv=True)
    x_BPD, (keys, values) = encoded
    last_BD = jnp.take_along_axis(x_BPD, (length_B - 1)[:, None, None], axis=1)[:, 0]
    return PromptCache(keys=keys, values=values, visible_BP=visible_BP, last_BD=last_BD, length_B=length_B)


def prompt_scores(q_BnKGh: jax.Array, keys_BPKh: jax.Array, visible_BP: jax.Array) -> jax.Array:
    """Scaled scores of tokens against their user's prompt, float32 [B, K, G, n, P]; padding gets the lowest value."""
    scores = jnp.einsum("BnKGh,BPKh->BKGnP", q_BnKGh, keys_BPKh, preferred_element_type=jnp.float32)
    return jnp.where(visible_BP[:, None, None, None, :], scores, jnp.finfo(jnp.float32).min)


def two_part_softmax(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One softmax over the last axes of `a` and `b` together, without joining them. Every row of one of them must have a visible entry."""
    top = jnp.maximum(jnp.max(a, axis=-1, keepdims=True), jnp.max(b, axis=-1, keepdims=True))
    exp_a, exp_b = jnp.exp(a - top), jnp.exp(b - top)
    total = jnp.sum(exp_a, axis=-1, keepdims=True) + jnp.sum(exp_b, axis=-1, keepdims=True)
    return exp_a / total, exp_b / total
