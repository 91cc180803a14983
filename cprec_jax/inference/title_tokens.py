"""Tokens of titles: as padded arrays, and which titles have the same ones."""

import itertools

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
    copies = np.bincount(first_alike(catalogue, items))
    return int(copies[copies > 1].sum())


def first_alike(catalogue: Catalogue, items: np.ndarray) -> np.ndarray:
    """int64[N]: of each of the N items (ascending numbers), the index of the first one with the same tokens."""
    tokens, offsets = catalogue.gather(items)
    first: dict[bytes, int] = {}
    indices = (
        first.setdefault(tokens[a:b].tobytes(), index)
        for index, (a, b) in enumerate(itertools.pairwise(offsets.tolist()))
    )
    return np.fromiter(indices, np.int64, len(items))


def tied(scores: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """The scores [U, C], with that of the first one for all candidates of a user that are alike (int64[U, C]: equal
    numbers are alike).

    Copies are scored in other rows and chunks, where rounding may tell them apart.
    """
    equal = np.empty_like(scores)
    for row, numbers in enumerate(alike):
        _, first, group = np.unique(numbers, return_index=True, return_inverse=True)
        equal[row] = scores[row, first][group]
    return equal
