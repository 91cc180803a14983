"""Features of titles, from which the item embeddings of GRU4Rec and SASRec may start.

An item's embedding is `features @ map + own`: the map starts as the identity and is trained, `own` starts at zero and
exists only for items of the training sequences. So an item without training interactions keeps the embedding that its
title gives it; as a free parameter it would only be pushed away, since it is never a target.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as sla

from cprec_jax.text.title_features import counts, tf_idf

FEATURES = "words 1"
SCALE = 0.02  # root mean square of the entries, as that of embeddings without titles


class Titles(NamedTuple):
    """Features float32[N, D] of every item, and which items occur in training, float32[N] of 0 and 1."""

    features_ND: np.ndarray
    known_N: np.ndarray


def from_tf_idf(titles: Sequence[str], width: int) -> np.ndarray:
    """TF-IDF of title words reduced by a truncated SVD, float32[N, width]; where there are fewer dimensions the rest is
    zero."""
    weights_NF = tf_idf(counts(titles, FEATURES))
    rank = min(width, min(weights_NF.shape) - 1)
    if rank < 1:
        return np.zeros((len(titles), width), np.float32)
    # ARPACK's own start would differ from run to run
    start = np.random.default_rng(0).normal(size=min(weights_NF.shape))
    left_NR, sizes_R, _ = sla.svds(weights_NF, k=rank, v0=start)
    return _scaled(left_NR * sizes_R, width)


def from_states(states_ND: np.ndarray, width: int) -> np.ndarray:
    """Any vectors of items, such as a language model's mean hidden states, reduced by principal components: float32[N,
    width]."""
    centred_ND = np.asarray(states_ND, np.float64) - states_ND.mean(axis=0, dtype=np.float64)
    _, axes_DD = np.linalg.eigh(centred_ND.T @ centred_ND)  # ascending, so the largest are the last
    return _scaled(centred_ND @ axes_DD[:, -width:], width)


def _scaled(reduced_NR: np.ndarray, width: int) -> np.ndarray:
    """Centred, of one scale, filled up with zeros. Only a start is needed, so float32 does.

    Which of two signs a component has is the linear algebra library's choice, and differs between processors: here its
    largest entry is positive, so that this choice changes no start.
    """
    largest_R = np.argmax(np.abs(reduced_NR), axis=0)
    reduced_NR = reduced_NR * np.where(reduced_NR[largest_R, np.arange(reduced_NR.shape[1])] < 0, -1, 1)
    reduced_NR = reduced_NR - reduced_NR.mean(axis=0)
    reduced_NR *= SCALE / max(float(np.sqrt((reduced_NR**2).mean())), 1e-12)
    return np.pad(reduced_NR, ((0, 0), (0, width - reduced_NR.shape[1]))).astype(np.float32)


def initial(params: Mapping[str, Any], titles: Titles) -> dict[str, Any]:
    """The parameters of a model at step 0, with a map of the titles instead of embeddings of the items' own."""
    items = jnp.zeros_like(params["items"]).at[-1].set(params["items"][-1])  # the padding's stays
    return {**params, "items": items, "title_map": jnp.eye(titles.features_ND.shape[1], dtype=items.dtype)}


def composed(params: Mapping[str, Any], titles: Titles | None) -> dict[str, Any]:
    """The parameters with the embedding and the bias of every item as the model uses them."""
    if titles is None:
        return dict(params)
    known_N = jnp.asarray(titles.known_N)
    items_ND = jnp.asarray(titles.features_ND) @ params["title_map"] + params["items"][:-1] * known_N[:, None]
    rest = {name: value for name, value in params.items() if name != "title_map"}
    return {**rest, "items": jnp.concatenate([items_ND, params["items"][-1:]]), "bias": params["bias"] * known_N}


def known(items: np.ndarray, n_items: int) -> np.ndarray:
    """float32[N]: 1 for what occurs in training."""
    return (np.bincount(items, minlength=n_items) > 0).astype(np.float32)
