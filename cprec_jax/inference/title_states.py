"""A language model's mean hidden state of every title: what it knows of an item before any user has met it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.inference.padding import fill_batch
from cprec_jax.inference.title_tokens import padded_titles
from cprec_jax.model.decoder import Decoder
from cprec_jax.text.catalogue import Catalogue

TITLES = 64  # read together


def title_states(decoder: Decoder, params: Any, catalogue: Catalogue, items: np.ndarray) -> np.ndarray:
    """float32[N, D]: hidden states after the final norm, averaged over a title's tokens (its end of item included),
    nothing before it."""
    lengths = catalogue.lengths[items]
    order = np.argsort(lengths, kind="stable")  # batches of like lengths waste little padding
    decoder = Decoder(config=decoder.config, dtype=decoder.dtype)  # the default attend function, so compiled once
    states = np.zeros((len(items), decoder.config.hidden_size), np.float32)
    for first in range(0, len(items), TITLES):
        rows = fill_batch(order[first : first + TITLES], TITLES)
        means_BD = _mean(decoder, params, padded_titles(catalogue, items[rows]), lengths[rows].astype(np.int32))
        states[rows] = np.asarray(means_BD)
    return states


def _means(decoder: Decoder, params: Any, tokens_BT: jax.Array, lengths_B: jax.Array) -> jax.Array:
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    real_BT = positions_BT < lengths_B[:, None]
    x_BTD: Any = decoder.apply({"params": params}, tokens_BT, positions_BT, (real_BT.astype(jnp.int32),))
    total_BD = jnp.sum(jnp.where(real_BT[..., None], x_BTD.astype(jnp.float32), 0.0), axis=1)
    return total_BD / lengths_B[:, None]


_mean = jax.jit(_means, static_argnums=0)
