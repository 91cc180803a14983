"""GRU4Rec (Hidasi et al. 2016) and SASRec (Kang and McAuley 2018) as encoders of item sequences, scored by tied item
embeddings.

Both are trained here with cross-entropy over the whole catalogue, without which they are no fair comparison (arXiv
2308.07192, 2402.06216).
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cprec_jax.config.sequential import SequentialSpec
from cprec_jax.model.loss import chunk_for, cross_entropy_sum

POSITIONS = 128  # scored at a time in training
Architecture = Literal["gru4rec", "sasrec"]


class SASRec(nn.Module):
    """Items int32[B, T] (n_items = padding, only at the end) -> hidden states [B, T, D], each of its own and the
    earlier items."""

    n_items: int
    spec: SequentialSpec
    dropout: float

    @nn.compact
    def __call__(self, items_BT: jax.Array, deterministic: bool) -> jax.Array:
        x_BTD, drop = _embed(self, items_BT, deterministic)
        places_LD = self.param("places", nn.initializers.normal(0.02), (self.spec.max_length, self.spec.hidden))
        x_BTD = drop(x_BTD + places_LD[: items_BT.shape[1]])
        mask = nn.make_causal_mask(items_BT)
        for _ in range(self.spec.layers):
            h_BTD = nn.LayerNorm()(x_BTD)
            attention = nn.MultiHeadDotProductAttention(
                num_heads=self.spec.heads, dropout_rate=self.dropout, deterministic=deterministic
            )
            x_BTD = x_BTD + drop(attention(h_BTD, h_BTD, mask=mask))
            h_BTD = nn.Dense(4 * self.spec.hidden)(nn.LayerNorm()(x_BTD))
            x_BTD = x_BTD + drop(nn.Dense(self.spec.hidden)(nn.gelu(h_BTD)))
        return nn.LayerNorm()(x_BTD)


class GRU4Rec(nn.Module):
    """The same contract with gated recurrent units."""

    n_items: int
    spec: SequentialSpec
    dropout: float

    @nn.compact
    def __call__(self, items_BT: jax.Array, deterministic: bool) -> jax.Array:
        x_BTD, drop = _embed(self, items_BT, deterministic)
        x_BTD = drop(x_BTD)
        for _ in range(self.spec.layers):
            x_BTD = drop(nn.RNN(nn.GRUCell(features=self.spec.hidden))(x_BTD))
        return nn.LayerNorm()(nn.Dense(self.spec.hidden)(x_BTD))


def _embed(module: SASRec | GRU4Rec, items_BT: jax.Array, deterministic: bool) -> tuple[jax.Array, nn.Module]:
    table = module.param("items", nn.initializers.normal(0.02), (module.n_items + 1, module.spec.hidden))
    module.param("bias", nn.initializers.zeros, (module.n_items,))
    return table[items_BT] * module.spec.hidden**0.5, nn.Dropout(module.dropout, deterministic=deterministic)


def make(architecture: Architecture, n_items: int, spec: SequentialSpec, dropout: float) -> SASRec | GRU4Rec:
    cls: type[SASRec | GRU4Rec] = SASRec if architecture == "sasrec" else GRU4Rec
    return cls(n_items=n_items, spec=spec, dropout=dropout)


def logits(params: Any, hidden: jax.Array) -> jax.Array:
    """Scores [..., N] of the whole catalogue after hidden states [..., D]."""
    return hidden @ params["items"][:-1].T + params["bias"]


def loss(model: SASRec | GRU4Rec, params: Any, items_BT1: jax.Array, key: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats of every next item of int32[B, T + 1] sequences that is no padding; at most
    `batch_targets` are."""
    inputs_BT, targets_BT = items_BT1[:, :-1], items_BT1[:, 1:]
    hidden_BTD = model.apply({"params": params}, inputs_BT, deterministic=False, rngs={"dropout": key})
    assert isinstance(hidden_BTD, jax.Array)
    # Only what is no padding is scored, which is nearly all of a step's work: a quarter to a half of the positions
    # would be padding.
    real_P = targets_BT.ravel() < model.n_items
    most = min(model.spec.batch_targets, real_P.size)
    (position_K,) = jnp.nonzero(real_P, size=most, fill_value=0)
    n = real_P.sum()
    weights_K = (jnp.arange(most) < n).astype(hidden_BTD.dtype)
    x_KD = hidden_BTD.reshape(-1, model.spec.hidden)[position_K]
    # The bias is one more column. Few positions at a time: the scores of a whole batch do not fit into a cache, which
    # took most of a step.
    x_KD = jnp.concatenate([x_KD, jnp.ones_like(x_KD[:, :1])], axis=-1)
    w_ND = jnp.concatenate([params["items"][:-1], params["bias"][:, None]], axis=-1)
    labels_K = jnp.minimum(targets_BT.ravel()[position_K], model.n_items - 1)
    return cross_entropy_sum(
        x_KD[None], w_ND, labels_K[None], weights_K[None], chunk_for(most, POSITIONS)
    ) / jnp.maximum(n, 1)
