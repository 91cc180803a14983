"""Tokens of titles: as padded arrays, and which are alike."""

import itertools
from collections import Counter

import numpy as np

from cprec_jax.text.catalogue import Catalogue


def padded_titles(catalogue: Catalogue, items: np.ndarray) -> np.ndarray:
    """Tokens int32[*items.shape, t] of items, padded on the right to a multiple of 4 (few shapes are compiled)."""
    tokens, offsets = catalogue.gather(items.reshape(-1))
    lengths = np.diff(offsets)
    padded = np.zeros((items.size, -(-int(lengths.max()) // 4) * 4), np.int32)
    padded[np.arange(padded.shape[1])[None, :] < lengths[:, None]] = tokens
    return padded.reshape(*items.shape, -1)


def titles_alike(catalogue: Catalogue, items: np.ndarray) -> int:
    """How many of the items (ascending numbers) have the tokens of another one: no model can tell them apart."""
    tokens, offsets = catalogue.gather(items)
    copies = Counter(tokens[a:b].tobytes() for a, b in itertools.pairwise(offsets.tolist()))
    return sum(count for count in copies.values() if count > 1)
