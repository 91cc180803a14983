"""A decoder's layers one by one, for what a scanned decoder cannot do: the last one for some of its positions only.

b leading axis of the positions (1 where all users share them: it grows to B by itself where users' prompts come in), n
positions, q of them asked for, L layers, D model.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.model.attention import Context, Past
from cprec_jax.model.decoder import Block, Decoder
from cprec_jax.model.layers import rms_norm

UNROLLED = 8  # up to so many middle layers are compiled apart; more go in a loop


def through_layers(
    decoder: Decoder,
    params: Any,
    tokens_bn: jax.Array,
    positions_bn: jax.Array,
    context: Context,
    past: Past,
    asked_q: jax.Array,
    asked_context: Context,
) -> jax.Array:
    """Hidden states [B, q, D] after the final norm of the positions `asked_q` (int32, the same for all users).

    All positions go through all layers but the last, which gives only its keys and values for the rest. `past`: as for
    the decoder. The last layer's attend function gets `asked_context` and, after that layer's slice of `past`, the keys
    and values of all positions.
    """
    c, L = decoder.config, decoder.config.num_layers
    x_bnD = decoder.embed_tokens(params["embed"], tokens_bn)
    tables = decoder.rope(positions_bn)
    flags = None if c.sliding_layers is None else np.asarray(c.sliding_layers)
    block = Block(config=c, dtype=decoder.dtype, attend=decoder.attend, dropout=0.0, deterministic=True, return_kv=True)

    def layer(index: Any) -> tuple[Any, Any, Any]:
        return jax.tree.map(
            lambda leaf: leaf[index], (params["layers"], past, None if flags is None else jnp.asarray(flags))
        )

    def one(x_BnD: jax.Array, index: Any) -> tuple[jax.Array, None]:
        weights, past_of_layer, flag = layer(index)
        output: Any = block.apply({"params": weights}, x_BnD, past_of_layer, flag, tables, context)
        return output[0], None

    if L > 1:  # the first apart: until it has looked at the prompts its input and its projections are all users' own
        x_bnD, _ = one(x_bnD, 0)
    if L > 2:
        x_bnD, _ = jax.lax.scan(one, x_bnD, jnp.arange(1, L - 1), unroll=L - 2 <= UNROLLED)

    weights, past_of_last, flag = layer(L - 1)
    projections = block.clone(attend=_attend_to_nothing)
    output: Any = projections.apply({"params": weights}, x_bnD, past_of_last, flag, tables, context)
    _, kv = output
    tables = jax.tree.map(lambda leaf: leaf[:, asked_q], tables)
    output = block.apply({"params": weights}, x_bnD[:, asked_q], (*past_of_last, *kv), flag, tables, asked_context)
    return rms_norm(output[0], params["final_norm"], c)


def _attend_to_nothing(q_BTHh: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """For a layer of which only the keys and values are wanted: the rest is not even compiled."""
    return jnp.zeros_like(q_BTHh)
