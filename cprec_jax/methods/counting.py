"""Baselines that count: time-decayed popularity, last items, first-order Markov, item-kNN.

Each gives raw scores, never negative, and is ranked by them; what ties is ordered by popularity. Its distribution, for
the NLL, is the raw scores smoothed by popularity, p_j = (raw_j + a q_j) / (sum raw + a) with q_j = (count_j + 1) / (all
counts + N): more evidence, less smoothing. The weight a has the lowest NLL on the validation split; so has the
half-life, while item-kNN's weights by age have the best NDCG@10 there. Fitted on the training sequences of the set's
own domain.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.interactions import DAY, Fit, Interactions, histories, interactions
from cprec_jax.evaluate.method import Scored, user_batches
from cprec_jax.methods.smoothing import ndcg, nll_by_weight, prior, ranked, smoothed

SMOOTHING = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
LAST_ITEMS = 10  # of a history, that item-kNN looks at


class Fitted(Protocol):
    """Raw scores float64[len(users), N], none negative."""

    def raw(self, data: EvalSet, users: np.ndarray) -> np.ndarray: ...


class Counter(Protocol):
    """How to count: the settings to choose from on validation (the first one is used without validation users), and by
    what."""

    setting: str  # its name in results.json
    settings: tuple[float | None, ...]
    chosen_by: str

    def fit(self, train: Interactions, setting: float | None) -> Fitted: ...


class DecayedPopularity:
    """Counts that halve every `half_life_days` back from the newest training interaction; None: never. Positions do not
    decay."""

    setting: str = "half_life_days"
    settings: tuple[float | None, ...] = (None, 7.0, 30.0, 90.0, 180.0, 365.0, 730.0)
    chosen_by: str = "nll"

    def fit(self, train: Interactions, setting: float | None) -> Fitted:
        if setting is None or not train.timed or not len(train.times):
            return PlainPopularity().fit(train, None)
        age_days = (train.times.max() - train.times) / DAY
        return _Same(np.bincount(train.items, np.exp2(-age_days / setting), minlength=train.n_items))


class PlainPopularity:
    """Counts alone."""

    setting: str = ""
    settings: tuple[float | None, ...] = (None,)
    chosen_by: str = "nll"

    def fit(self, train: Interactions, setting: float | None) -> Fitted:
        return _Same(np.bincount(train.items, minlength=train.n_items).astype(np.float64))


class LastItems:
    """The user's own items, the newest first: 1 / (1 + age)."""

    setting: str = ""
    settings: tuple[float | None, ...] = (None,)
    chosen_by: str = "nll"

    def fit(self, train: Interactions, setting: float | None) -> Fitted:
        return _Recency(train.n_items)


class Markov:
    """How often an item directly followed the user's newest one."""

    setting: str = ""
    settings: tuple[float | None, ...] = (None,)
    chosen_by: str = "nll"

    def fit(self, train: Interactions, setting: float | None) -> Fitted:
        rows = train.rows
        inside = rows[1:] == rows[:-1]
        pairs = (np.ones(int(inside.sum())), (train.items[:-1][inside], train.items[1:][inside]))
        return _Rows(sp.csr_matrix(pairs, shape=(train.n_items, train.n_items)), 1, 1.0)


class ItemKNN:
    """Cosine of items as sets of users, summed over the last ten of the history with `step_weight`^age, the newest item
    at age 0.

    The cosines are those of `implicit.nearest_neighbours.CosineRecommender` on binary interactions, without an item's
    to itself; all neighbours count, since fewer were never better on real sets.
    """

    setting: str = "step_weight"
    settings: tuple[float | None, ...] = (0.8, 1.0, 0.65, 0.5)
    chosen_by: str = "ndcg@10"

    def fit(self, train: Interactions, setting: float | None) -> Fitted:
        assert setting is not None
        counts_UN = sp.csr_matrix(
            (np.ones(len(train.items)), (train.rows, train.items)), shape=(len(train), train.n_items)
        )
        counts_UN.data[:] = 1.0
        norms = np.sqrt(np.asarray(counts_UN.sum(axis=0)).ravel())
        unit_UN = counts_UN @ sp.diags_array(1 / np.maximum(norms, 1.0))
        cosine_NN = sp.csr_matrix(unit_UN.T @ unit_UN)
        cosine_NN.setdiag(0)
        cosine_NN.eliminate_zeros()
        return _Rows(cosine_NN, LAST_ITEMS, setting)


class _Same:
    def __init__(self, score_N: np.ndarray):
        self._score_N = score_N

    def raw(self, data: EvalSet, users: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self._score_N, (len(users), len(self._score_N)))


class _Recency:
    def __init__(self, n_items: int):
        self._n_items = n_items

    def raw(self, data: EvalSet, users: np.ndarray) -> np.ndarray:
        row, column, age = histories(data, users)
        raw = np.zeros((len(users), self._n_items))
        np.maximum.at(raw, (row, column), 1 / (1.0 + age))
        return raw


class _Rows:
    """Sums of rows of a sparse matrix over the newest `last` items of a history, each weighted by step_weight^age."""

    def __init__(self, matrix_NN: sp.csr_matrix, last: int, step_weight: float):
        self._matrix_NN, self._last, self._step_weight = matrix_NN, last, step_weight

    def raw(self, data: EvalSet, users: np.ndarray) -> np.ndarray:
        row, column, age = histories(data, users, self._last)
        recent = sp.csr_matrix((self._step_weight**age, (row, column)), shape=(len(users), self._matrix_NN.shape[0]))
        return (recent @ self._matrix_NN).toarray()


class Counted:
    """A counter as a method of the harness. `validation` holds the sets its settings are chosen on, by name."""

    def __init__(self, counter: Counter, corpus: Corpus, validation: Mapping[str, EvalSet], fit: Fit):
        self._counter, self._corpus, self._validation, self._fit = counter, corpus, validation, fit
        self._facts: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        return self._facts

    def score(self, data: EvalSet) -> Iterator[Scored]:
        setting, smoothing, self._facts = self._choose(self._validation.get(data.name))
        train = interactions(self._corpus, data, self._fit)
        fitted, prior_N = self._counter.fit(train, setting), prior(train)
        for users in user_batches(len(data)):
            raw = fitted.raw(data, users)
            yield Scored(users=users, scores=ranked(raw, prior_N), log_probs=np.log(smoothed(raw, prior_N, smoothing)))

    def _choose(self, data: EvalSet | None) -> tuple[float | None, float, dict[str, Any]]:
        """The setting and the smoothing weight, and what of it is recorded."""
        counter = self._counter
        facts: dict[str, Any] = {"fit": self._fit}
        if data is None or not len(data):
            return counter.settings[0], 1.0, facts
        train = interactions(self._corpus, data, self._fit)
        settings = counter.settings if train.timed or counter.setting != DecayedPopularity.setting else (None,)
        tried = [(setting, *_validate(counter.fit(train, setting), prior(train), data)) for setting in settings]
        best = min(tried, key=lambda entry: min(entry[1].values()) if counter.chosen_by == "nll" else -entry[2])
        setting, nll, value = best
        smoothing = min(nll, key=lambda a: nll[a])
        if counter.setting:
            facts |= {
                counter.setting: setting,
                "validation_by_setting": {str(s): [min(n.values()), g] for s, n, g in tried},
            }
        facts |= {
            "smoothing": smoothing,
            "validation_nll": {str(a): value for a, value in nll.items()},
            "validation_ndcg@10": value,
        }
        return setting, smoothing, facts


def _validate(fitted: Fitted, prior_N: np.ndarray, data: EvalSet) -> tuple[dict[float, float], float]:
    """On validation users: mean NLL in nats by smoothing weight, and NDCG@10."""
    nll = {weight: value for (_, weight), value in nll_by_weight(fitted.raw, prior_N, data, SMOOTHING).items()}
    return nll, ndcg(fitted.raw, prior_N, data)
