"""An untrained heuristic on the graph of transitions: what is one or two hops from the last two items, ranked by
similarity of titles.

After TGH-2 of "An Embarrassingly Simple Graph Heuristic" (arXiv 2605.07125), which asks whether a benchmark needs a
model at all. The paper fills a top ten by quotas per ring. Here every item has a score, so that the whole catalogue
is ranked and has a distribution:

    raw_j = similarity_j * (pad + sum over rings that hold j of its weight) + edge * sum over the two items of source^k
    * edge_kj

with the ring one hop from the last item at weight 1, times `hop` at two hops, times `source` from the item before. An
edge is log(1 + how often j directly followed), divided by the largest of its row; `similarity` is that of `text_knn`,
in the setting that it chose.
"""

import functools
import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.interactions import Fit, Interactions, histories, interactions
from cprec_jax.evaluate.method import Scored, user_batches
from cprec_jax.methods.smoothing import ndcg_sum, prior, ranked, sharpened, smoothed
from cprec_jax.methods.text_knn import Setting, TextKNN

SOURCES = 2  # the last items that rings are drawn round
PAD = 0.01  # of the similarity, for what is in no ring: below every ring, and above nothing at all


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What validation chooses by NDCG@10; the defaults are taken without validation users."""

    hop: float = 0.1
    source: float = 0.5
    edge: float = 0.5

    def __str__(self) -> str:
        return f"hop {self.hop:g}, source {self.source:g}, edge {self.edge:g}"


RINGS = tuple(  # tried first
    Weights(hop=h, source=s, edge=e)
    for h, s, e in itertools.product((0.3, 0.1, 0.03, 0.01), (1.0, 0.5, 0.2), (0.0, 0.5))
)
EDGES = (0.1, 2.0)  # then, with the best of them


class Transitions:
    """Which item directly followed which, and how often."""

    def __init__(self, train: Interactions):
        rows = train.rows
        inside = rows[1:] == rows[:-1]
        pairs = (np.ones(int(inside.sum())), (train.items[:-1][inside], train.items[1:][inside]))
        counts_NN = sp.csr_matrix(pairs, shape=(train.n_items, train.n_items))
        counts_NN.setdiag(0)
        counts_NN.eliminate_zeros()
        self._next_NN = counts_NN.astype(bool).astype(np.float64)
        counts_NN.data = np.log1p(counts_NN.data)
        most_N = counts_NN.max(axis=1).toarray().ravel()
        self._edge_NN = sp.csr_matrix(sp.diags_array(1 / np.where(most_N > 0, most_N, 1)) @ counts_NN)

    def rings(self, items_B: np.ndarray) -> tuple[sp.csr_matrix, sp.csr_matrix, sp.csr_matrix]:
        """Of each item: what is exactly one hop away, exactly two hops away (1 or absent), and its edges. [B, N] each;
        -1 has none."""
        known = sp.diags_array((items_B >= 0).astype(np.float64))
        near_BN = sp.csr_matrix(known @ self._next_NN[items_B])
        far_BN = (near_BN @ self._next_NN).astype(bool)
        itself = (np.ones(len(items_B), bool), (np.arange(len(items_B)), np.maximum(items_B, 0)))
        nearer_BN = near_BN.astype(bool) + sp.csr_matrix(itself, shape=near_BN.shape)
        far_BN = far_BN > far_BN.multiply(nearer_BN)
        return near_BN, sp.csr_matrix(far_BN.astype(np.float64)), sp.csr_matrix(known @ self._edge_NN[items_B])


class Graph:
    """The row `graph`."""

    def __init__(self, text: TextKNN, corpus: Corpus, fit: Fit):
        self._text, self._corpus, self._fit = text, corpus, fit
        self._facts: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        return self._facts

    def score(self, data: EvalSet) -> Iterator[Scored]:
        train = interactions(self._corpus, data, self._fit)
        transitions, prior_N = Transitions(train), prior(train)
        setting, weights, power, smoothing, self._facts = self._choose(data)
        for users in user_batches(len(data)):
            (raw,) = self.raw(transitions, data, users, setting, (weights,))
            yield Scored(
                users=users, scores=ranked(raw, prior_N), log_probs=np.log(smoothed(raw**power, prior_N, smoothing))
            )

    def raw(
        self, transitions: Transitions, data: EvalSet, users: np.ndarray, setting: Setting, weights: tuple[Weights, ...]
    ) -> Iterator[np.ndarray]:
        """Raw scores float64[len(users), N], with one of the weights after the other."""
        similarity_BN = self._text.raw(data, users, setting)
        row, column, age = histories(data, users, SOURCES)
        items_kB = np.full((SOURCES, len(users)), -1)
        items_kB[age, row] = column
        rings = [transitions.rings(items_B) for items_B in items_kB]
        for ring_weights in weights:
            factors = [ring_weights.source**age for age in range(SOURCES)]
            ring_BN = functools.reduce(
                operator.add,
                (f * (near + ring_weights.hop * far) for f, (near, far, _) in zip(factors, rings, strict=True)),
            )
            edge_BN = functools.reduce(
                operator.add, (f * edges for f, (_, _, edges) in zip(factors, rings, strict=True))
            )
            yield similarity_BN * (PAD + ring_BN.toarray()) + ring_weights.edge * edge_BN.toarray()

    def _choose(self, data: EvalSet) -> tuple[Setting, Weights, float, float, dict[str, Any]]:
        """Setting of the similarity, weights, sharpness, smoothing weight, and what of them is recorded."""
        facts: dict[str, Any] = {"fit": self._fit}
        valid = self._text.validation(data)
        setting, *_ = self._text.choice(data)
        if not len(valid):
            return setting, Weights(), 1.0, 1.0, facts
        train = interactions(self._corpus, valid, self._fit)  # with `history` not what it is for the test
        transitions, valid_prior_N = Transitions(train), prior(train)
        tried = self._ndcg(transitions, valid, setting, valid_prior_N, RINGS)
        rings = max(RINGS, key=tried.__getitem__)
        tried |= self._ndcg(
            transitions, valid, setting, valid_prior_N, tuple(replace(rings, edge=edge) for edge in EDGES)
        )
        weights = max(tried, key=tried.__getitem__)

        def raw(valid: EvalSet, users: np.ndarray) -> np.ndarray:
            return next(self.raw(transitions, valid, users, setting, (weights,)))

        power, smoothing, of_nll = sharpened(raw, valid_prior_N, valid)
        facts |= {"setting": str(setting), "weights": str(weights), "validation_ndcg@10": tried[weights]}
        facts |= {"tried": {str(tried_weights): value for tried_weights, value in tried.items()}}
        return setting, weights, power, smoothing, facts | of_nll

    def _ndcg(
        self, transitions: Transitions, data: EvalSet, setting: Setting, prior_N: np.ndarray, grid: tuple[Weights, ...]
    ) -> dict[Weights, float]:
        """NDCG@10 with each of the weights; rings and similarities, which are most of the work, once."""
        total = dict.fromkeys(grid, 0.0)
        for users in user_batches(len(data)):
            for weights, raw in zip(grid, self.raw(transitions, data, users, setting, grid), strict=True):
                total[weights] += ndcg_sum(raw, prior_N, data, users)
        return {weights: value / len(data) for weights, value in total.items()}
