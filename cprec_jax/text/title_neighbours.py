"""Each title of a catalogue followed by the titles most like it, by the cosine of TF-IDF; no interaction enters.

Similarities are products of sparse blocks, so that memory is bounded by `BLOCK`, whatever the size of the catalogue.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sp

from cprec_jax.text.title_features import similarity

FEATURES = "words 1-2"
MOST_TITLES = (
    10_000  # an n-gram of more titles relates nobody, and would make the time grow with the square of the catalogue
)
BLOCK = 4_000_000  # products per block, about 12 bytes each
DIGITS = 9  # similarities that agree so far are equal: sums in another order differ in the last digit


def neighbour_lists(
    titles: Sequence[str], length: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For every title its number and those of its neighbours, the nearest first, `length` together; ties in an order
    drawn from `rng`.

    Titles without anything in common are no neighbours, so that a list may be shorter, or the title alone.

    Yields:
      (numbers int64[total], offsets int64[n + 1]) of consecutive titles: list i is `numbers[offsets[i]:offsets[i +
      1]]`.
    """
    vectors_NF = _vectors(titles)
    tie_N = rng.permutation(len(titles))
    by_gram_FN = vectors_NF.T.tocsr()
    for first, last in _blocks(vectors_NF):
        products = vectors_NF[first:last] @ by_gram_FN
        lists = []
        for row in range(last - first):
            span = slice(products.indptr[row], products.indptr[row + 1])
            near = _nearest(products.indices[span], products.data[span], first + row, length - 1, tie_N)
            lists.append(np.concatenate([[first + row], near]))
        offsets = np.concatenate([[0], np.cumsum([len(neighbours) for neighbours in lists])]).astype(np.int64)
        yield np.concatenate(lists).astype(np.int64), offsets


def _vectors(titles: Sequence[str]) -> sp.csr_matrix:
    """TF-IDF vectors, without n-grams that more than `MOST_TITLES` titles have."""
    vectors_NF = similarity(titles, FEATURES, "tfidf").document_NF
    held_F = np.bincount(vectors_NF.indices, minlength=vectors_NF.shape[1])
    return sp.csr_matrix(vectors_NF[:, np.flatnonzero(held_F <= MOST_TITLES)])


def _blocks(vectors_NF: sp.csr_matrix) -> Iterator[tuple[int, int]]:
    """Consecutive rows whose products with all others are at most `BLOCK` numbers, or single ones."""
    held_F = np.bincount(vectors_NF.indices, minlength=vectors_NF.shape[1])
    ends = np.concatenate([[0], np.cumsum(held_F[vectors_NF.indices])])[vectors_NF.indptr]
    first, n = 0, vectors_NF.shape[0]
    while first < n:
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + BLOCK, side="right")) - 1)
        yield first, last
        first = last


def _nearest(numbers: np.ndarray, similarities: np.ndarray, item: int, most: int, tie_N: np.ndarray) -> np.ndarray:
    """At most `most` of `numbers` without `own`, by falling similarity."""
    rounded = np.round(similarities, DIGITS)
    usable = (numbers != item) & (rounded > 0)
    numbers, rounded = numbers[usable], rounded[usable]
    if len(numbers) > most:
        least = np.partition(rounded, len(rounded) - most)[len(rounded) - most]
        numbers, rounded = numbers[rounded >= least], rounded[rounded >= least]
    return numbers[np.lexsort((tie_N[numbers], -rounded))][:most]
