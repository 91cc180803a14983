"""One more token per row after cached prompts: the keys and values of what was generated so far, beside those of the
prompt.

B rows, P prompt length, N new tokens at most, H query heads, K key/value heads, G = H / K, h head dim, L layers.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cprec_jax.inference.prompt_cache import PromptCache, attend_prompt
from cprec_jax.model.decoder import Decoder
from cprec_jax.model.partial_attention import attend_keys, by_head, by_position, merge


@flax.struct.dataclass
class Generated:
    """keys, values [L, B, N, K, h] after rotation, of which the first `count` (int32 scalar) are filled in."""

    keys: jax.Array
    values: jax.Array
    count: jax.Array


def nothing_generated(cache: PromptCache, room: int) -> Generated:
    """Room for `room` new tokens per row."""
    L, B, _, K, h = cache.keys.shape
    empty = jnp.zeros((L, B, room, K, h), cache.keys.dtype)
    return Generated(keys=empty, values=empty, count=jnp.int32(0))


def _attend(
    q_B1Hh: jax.Array,
    k_B1Kh: jax.Array,
    v_B1Kh: jax.Array,
    past: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    context: tuple[jax.Array, jax.Array],
    window: int | jax.Array | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """The new token sees its row's prompt, the tokens generated before it, and itself, in one softmax."""
    keys_BPKh, values_BPKh, keys_BNKh, values_BNKh = past
    length_B, count = context
    q_BKG1h = by_head(q_B1Hh, k_B1Kh.shape[2])
    after_B1 = jnp.broadcast_to(count, (q_B1Hh.shape[0], 1))
    on_prompt = attend_prompt(q_BKG1h, keys_BPKh, values_BPKh, length_B, after_B1, window, softcap)
    keys_BNKh = jax.lax.dynamic_update_slice_in_dim(keys_BNKh, k_B1Kh, count, axis=1)
    values_BNKh = jax.lax.dynamic_update_slice_in_dim(values_BNKh, v_B1Kh, count, axis=1)
    apart_N = count - jnp.arange(keys_BNKh.shape[1])
    visible_N = apart_N >= 0
    if window is not None:
        visible_N &= apart_N < window
    on_new = attend_keys(q_BKG1h, keys_BNKh, values_BNKh, visible_N[None, None], softcap)
    return by_position(merge(on_prompt, on_new)).astype(v_B1Kh.dtype)


def next_hidden(
    decoder: Decoder, params: Any, cache: PromptCache, past: Generated, token_B: jax.Array
) -> tuple[jax.Array, Generated]:
    """Hidden state [B, D] of `token_B`, the token that follows the prompt and what `past` holds; and `past` with it
    added."""
    position_B1 = (cache.length_B + past.count)[:, None]
    stepper = decoder.clone(attend=_attend)
    outputs: Any = stepper.apply(
        {"params": params},
        token_B[:, None],
        position_B1,
        (cache.length_B, past.count),
        (cache.keys, cache.values, past.keys, past.values),
        return_kv=True,
    )
    x_B1D, (k_LB1Kh, v_LB1Kh) = outputs
    add = lambda kept, new: jax.lax.dynamic_update_slice_in_dim(kept, new, past.count, axis=2)  # noqa: E731
    return x_B1D[:, 0], Generated(keys=add(past.keys, k_LB1Kh), values=add(past.values, v_LB1Kh), count=past.count + 1)
