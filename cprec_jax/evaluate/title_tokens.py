"""Tokens of titles as padded arrays."""

import numpy as np

from cprec_jax.text.catalogue import Catalogue


def padded_titles(catalogue: Catalogue, items: np.ndarray) -> np.ndarray:
    """Tokens int32[*items.shape, t] of items, padded on the right to a multiple of 4 (few shapes are compiled)."""
    tokens, offsets = catalogue.gather(items.reshape(-1))
    lengths = np.diff(offsets)
    padded = np.zeros((items.size, -(-int(lengths.max()) // 4) * 4), np.int32)
    padded[np.arange(padded.shape[1])[None, :] < lengths[:, None]] = tokens
    return padded.reshape(*items.shape, -1)
