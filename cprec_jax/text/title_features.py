"""Titles as sparse vectors of word or character n-grams, weighted by TF-IDF or BM25, so that a product of two is a
similarity.

Everything is of the catalogue alone: no interaction and no training enters. N-grams and TF-IDF are those of
scikit-learn's `TfidfVectorizer` (analyzers `word`, with every run of word characters a word, and `char_wb`); BM25 is
Robertson and Zaragoza (2009).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cprec_jax.config.evaluate import Unit, Weighting, parse_features

WORD = re.compile(r"\w+")
K1, B = 1.2, 0.75  # of BM25, the usual values: titles are short, and neither matters much


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """`query_NF @ document_NF.T` holds the similarity of every title (row) to every other (column); with TF-IDF both
    are the same."""

    query_NF: sp.csr_matrix
    document_NF: sp.csr_matrix

    @property
    def own_N(self) -> np.ndarray:
        """Similarity of every title to itself, float64[N]."""
        return np.asarray(self.query_NF.multiply(self.document_NF).sum(axis=1)).ravel()


def n_grams(title: str, unit: Unit, shortest: int, longest: int) -> Iterator[str]:
    """The n-grams of one title in lower case. Characters: inside words, which white space parts and one space on either
    side closes."""
    title = title.lower()
    if unit == "words":
        tokens = WORD.findall(title)
        for n in range(shortest, longest + 1):
            yield from (" ".join(tokens[first : first + n]) for first in range(len(tokens) - n + 1))
        return
    for word in title.split():
        padded = f" {word} "
        for n in range(shortest, longest + 1):
            yield from (padded[first : first + n] for first in range(max(len(padded) - n, 0) + 1))
            if n >= len(padded):  # a word shorter than n counts once, as a whole
                break


def counts(titles: Sequence[str], features: str) -> sp.csr_matrix:
    """How often each n-gram (columns, in alphabetical order) occurs in each title: float64[N, F]."""
    unit, shortest, longest = parse_features(features)
    vocabulary: dict[str, int] = {}
    columns: list[int] = []
    values: list[int] = []
    offsets = [0]
    for title in titles:
        grams = Counter(n_grams(title, unit, shortest, longest))
        columns += [vocabulary.setdefault(gram, len(vocabulary)) for gram in grams]
        values += grams.values()
        offsets.append(len(columns))
    # In alphabetical order, sums over a title's n-grams have one order whatever the order of the titles.
    column_of = np.empty(len(vocabulary), np.int64)
    column_of[np.array([vocabulary[gram] for gram in sorted(vocabulary)], np.int64)] = np.arange(len(vocabulary))
    matrix = sp.csr_matrix(
        (np.array(values, np.float64), column_of[np.array(columns, np.int64)], np.array(offsets)),
        shape=(len(titles), len(vocabulary)),
    )
    matrix.sort_indices()
    return matrix


def tf_idf(counts_NF: sp.csr_matrix) -> sp.csr_matrix:
    """Counts times log((1 + N) / (1 + titles that have it)) + 1, each title of length 1; titles without any n-gram stay
    empty."""
    n, held_F = counts_NF.shape[0], _titles_with(counts_NF)
    weighted = counts_NF @ sp.diags_array(np.log((1 + n) / (1 + held_F)) + 1)
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return sp.csr_matrix(sp.diags_array(1 / np.where(lengths > 0, lengths, 1)) @ weighted)


def bm25(counts_NF: sp.csr_matrix) -> sp.csr_matrix:
    """BM25 weights of every n-gram in every title taken as a document; idf is log(1 + (N - n + .5) / (n + .5)), which
    is never negative."""
    n, held_F = counts_NF.shape[0], _titles_with(counts_NF)
    idf_F = np.log1p((n - held_F + 0.5) / (held_F + 0.5))
    length_N = np.asarray(counts_NF.sum(axis=1)).ravel()
    damping_N = K1 * (1 - B + B * length_N / max(length_N.mean(), 1e-9))
    weights = counts_NF.copy()
    row = np.repeat(np.arange(n), np.diff(counts_NF.indptr))
    weights.data = idf_F[counts_NF.indices] * counts_NF.data * (K1 + 1) / (counts_NF.data + damping_N[row])
    return weights


def similarity(titles: Sequence[str], features: str, weighting: Weighting) -> Similarity:
    """TF-IDF: the cosine. BM25: the title in a history is the query; divided by what it scores against itself, so that
    long ones in a history weigh as much as short ones."""
    counted = counts(titles, features)
    if weighting == "tfidf":
        query = document = tf_idf(counted)
    else:
        query, document = counted, bm25(counted)
        own_N = Similarity(query_NF=query, document_NF=document).own_N
        query = sp.csr_matrix(sp.diags_array(1 / np.where(own_N > 0, own_N, 1)) @ query)
    # What one title alone has makes it like no other: it counted in lengths, and to keep it would cost most of the
    # memory.
    shared = np.flatnonzero(_titles_with(counted) > 1)
    return Similarity(query_NF=query[:, shared], document_NF=document[:, shared])


def _titles_with(counts_NF: sp.csr_matrix) -> np.ndarray:
    return np.bincount(counts_NF.indices, minlength=counts_NF.shape[1])
