"""Tokens of titles: as padded arrays, and which are alike."""

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
    """int64[N]: the place of the first of the N items (ascending numbers) that has the same tokens, its own where none
    is before it."""
    tokens, offsets = catalogue.gather(items)
    first: dict[bytes, int] = {}
    places = (
        first.setdefault(tokens[a:b].tobytes(), place)
        for place, (a, b) in enumerate(itertools.pairwise(offsets.tolist()))
    )
    return np.fromiter(places, np.int64, len(items))


def tied(scores: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """Scores [U, C] in which candidates of a user that are alike (int64[U, C], equal where they are) all have that of
    the first one.

    Copies are scored in other rows and chunks, where rounding may tell them apart.
    """
    made = np.empty_like(scores)
    for row, numbers in enumerate(alike):
        _, one, place = np.unique(numbers, return_index=True, return_inverse=True)
        made[row] = scores[row, one][place]
    return made
