"""Objective `cpt`: next-token prediction on packed behavioural sequences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from cprec_jax.model.decoder import Decoder, head_weight
from cprec_jax.model.loss import chunk_for, cross_entropy_sum, next_token_targets
from cprec_jax.train.objectives.objective import no_columns


@dataclass(frozen=True, kw_only=True)
class Cpt:
    """Nats per target token.

    Batches have the columns tokens, segment_ids, positions int32[B, T] and loss_mask float32[B, T].

    loss_chunk: positions per chunk of logits (`cross_entropy_sum`).
    """

    decoder: Decoder
    loss_chunk: int

    columns = ("tokens", "segment_ids", "positions", "loss_mask")
    terms = ("token_nll",)
    row_columns = staticmethod(no_columns)

    def weights(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The number of target tokens."""
        return {"token_nll": jnp.sum(_targets(batch)[1])}

    def sums(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """The summed loss of the target tokens in nats."""
        x_BTD = self.hidden(params, batch, key)
        return {"token_nll": self.token_nll(x_BTD, head_weight(params, self.decoder.config), batch)}

    def hidden(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], key: jax.Array | None) -> jax.Array:
        """The final hidden states x_BTD of the rows. key: for dropout; None: without."""
        rngs = None if key is None else {"dropout": key}
        x_BTD: Any = self.decoder.apply(
            {"params": params},
            batch["tokens"],
            batch["positions"],
            (batch["segment_ids"],),
            deterministic=key is None,
            rngs=rngs,
        )
        return x_BTD

    def token_nll(self, x_BTD: jax.Array, w_VD: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The summed loss of the target tokens in nats, from final hidden states and the head."""
        labels_BT, weights_BT = _targets(batch)
        return cross_entropy_sum(x_BTD, w_VD, labels_BT, weights_BT, chunk_for(x_BTD.shape[1], self.loss_chunk))

    def counts(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """tokens: target tokens; padding_free: tokens without padding."""
        return {
            "tokens": self.weights(batch)["token_nll"],
            "padding_free": jnp.sum((batch["segment_ids"] > 0).astype(jnp.float32)),
        }


def _targets(batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return next_token_targets(batch["tokens"], batch["segment_ids"], batch["loss_mask"])
