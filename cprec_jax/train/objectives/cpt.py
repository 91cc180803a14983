"""Objective `cpt`: next-token prediction on packed behavioural sequences."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cprec_jax.model.decoder import Decoder, head_weight
from cprec_jax.train.loss import chunk_for, cross_entropy_sum, next_token_targets


def loss_sum(
    params: Mapping, batch: Mapping[str, jax.Array], decoder: Decoder, loss_chunk: int, dropout_key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The summed token loss in nats and the number of target tokens, float32 scalars.

    Args:
      batch: tokens, segment_ids, positions int32[B, T]; loss_mask float32[B, T].
      dropout_key: None evaluates without dropout.
    """
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    x_BTD: Any = decoder.apply(
        {"params": params}, batch["tokens"], batch["positions"], (batch["segment_ids"],), deterministic=dropout_key is None, rngs=rngs
    )
    labels_BT, weights_BT = next_token_targets(batch["tokens"], batch["segment_ids"], batch["loss_mask"])
    chunk = chunk_for(x_BTD.shape[1], loss_chunk)
    loss = cross_entropy_sum(x_BTD, head_weight(params, decoder.config), labels_BT, weights_BT, chunk)
    return loss, jnp.sum(weights_BT)
