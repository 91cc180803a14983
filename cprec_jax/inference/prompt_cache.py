"""Prompts encoded once: their keys and values, which titles then attend to without a copy for each title.

B users, P prompt length, n nodes or tokens after the prompt, H query heads, K key/value heads, G = H / K, h head dim.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cprec_jax.model.attention import packed_attention
from cprec_jax.model.decoder import Decoder
from cprec_jax.model.partial_attention import Attended, attend_keys

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
