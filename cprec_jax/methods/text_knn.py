"""Similarity of titles to those of the history, without any training: the simplest baseline for models that read
titles.

Raw scores are the mean similarity to the newest items of the history, weighted by step_weight^age. They need no
training interaction: items without one are ranked like all others. Only ties go by popularity in training, and the
distribution, for the NLL, is smoothed by
it: p_j = (raw_j^s + a q_j) / (sum raw^s + a), see `methods/smoothing.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from cprec_jax.config.evaluate import TextKNNSpec, Weighting
from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.eval_set import EvalSet, validation_of
from cprec_jax.evaluate.interactions import histories, interactions
from cprec_jax.evaluate.method import Scored, user_batches
from cprec_jax.methods.smoothing import ndcg, prior, ranked, sharpened, smoothed
from cprec_jax.text.title_features import Similarity, similarity


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What validation chooses by NDCG@10. `own_items`: an item of the history is like itself, too (where histories
    are ranked)."""

    features: str
    weighting: Weighting
    step_weight: float
    last_items: int
    own_items: bool

    def __str__(self) -> str:
        with_own = ", with the history's own items" if self.own_items else ""
        return f"{self.features}, {self.weighting}, step weight {self.step_weight:g}, last {self.last_items}{with_own}"


class TextKNN:
    """The row `text_knn`. One object serves all rows that need it: what it chose for a set is kept."""

    def __init__(self, spec: TextKNNSpec, corpus: Corpus):
        self._spec, self._corpus = spec, corpus
        self._facts: dict[str, Any] = {}
        self._similarities: dict[tuple[str, str, str], Similarity] = {}
        self._choices: dict[str, tuple[Setting, float, float, dict[str, Any]]] = {}

    def facts(self) -> dict[str, Any]:
        return self._facts

    def score(self, data: EvalSet) -> Iterator[Scored]:
        prior_N = prior(interactions(self._corpus, data, "train"))
        setting, power, weight, self._facts = self.choice(data)
        for users in user_batches(len(data)):
            raw = self.raw(data, users, setting)
            yield Scored(
                users=users, scores=ranked(raw, prior_N), log_probs=np.log(smoothed(raw**power, prior_N, weight))
            )

    def raw(self, data: EvalSet, users: np.ndarray, setting: Setting) -> np.ndarray:
        """Weighted mean similarity of every item to the user's newest ones, float64[len(users), N], each in [0, 1] with
        TF-IDF."""
        likeness = self._similarity(data, setting)
        row, column, age = histories(data, users, setting.last_items)
        weight = setting.step_weight**age
        weight /= np.bincount(row, weight, minlength=len(users))[row]
        # In the order of the history: sorted by item, sums would depend on how items are numbered, in the last digit.
        offsets = np.searchsorted(row, np.arange(len(users) + 1))
        recent = sp.csr_matrix((weight, column, offsets), shape=(len(users), len(data.items)))
        raw = ((recent @ likeness.query_NF) @ likeness.document_NF.T).toarray()
        np.add.at(raw, (row, column), weight * (setting.own_items - likeness.own_N[column]))
        # what is taken off again was added in another order: it may be off by the last digit
        return np.maximum(raw, 0.0)

    def default(self, data: EvalSet) -> Setting:
        """What is taken without validation users."""
        spec = self._spec
        return Setting(
            features=spec.features[0],
            weighting=spec.weightings[0],
            step_weight=spec.step_weights[0],
            last_items=spec.last_items[0],
            own_items=False,
        )

    def tune(self, data: EvalSet, prior_N: np.ndarray) -> tuple[Setting, dict[str, float]]:
        """The setting with the best NDCG@10 on the users of `data`, and that of every one tried.

        First features and weighting, at the first values of the others; then step weight and number of items; then,
        where histories are ranked, whether an item is like itself.
        """
        spec, start = self._spec, self.default(data)
        tried: dict[Setting, float] = {}

        def best(settings: list[Setting]) -> Setting:
            for setting in settings:
                if setting not in tried:
                    tried[setting] = ndcg(partial(self.raw, setting=setting), prior_N, data)
            return max(settings, key=lambda setting: tried[setting])

        chosen = best([replace(start, features=f, weighting=w) for f in spec.features for w in spec.weightings])
        chosen = best(
            [replace(chosen, step_weight=s, last_items=n) for s in spec.step_weights for n in spec.last_items]
        )
        if spec.own_items and not data.history_masked:
            chosen = best([chosen, replace(chosen, own_items=True)])
        return chosen, {str(setting): value for setting, value in tried.items()}

    def validation(self, data: EvalSet) -> EvalSet:
        """The validation users of a set, for every choice."""
        return validation_of(self._corpus, data, self._spec.validation_users)

    def choice(self, data: EvalSet) -> tuple[Setting, float, float, dict[str, Any]]:
        """Setting, sharpness, smoothing weight, and what of them is recorded. Made once per set, whichever of its users
        are ranked."""
        if data.name not in self._choices:
            self._choices[data.name] = self._choose(data, prior(interactions(self._corpus, data, "train")))
        return self._choices[data.name]

    def _choose(self, data: EvalSet, prior_N: np.ndarray) -> tuple[Setting, float, float, dict[str, Any]]:
        valid = self.validation(data)
        if not len(valid):
            setting = self.default(data)
            return setting, 1.0, 1.0, {"setting": str(setting)}
        setting, tried = self.tune(valid, prior_N)
        power, weight, smoothing = sharpened(partial(self.raw, setting=setting), prior_N, valid)
        facts = {"setting": str(setting), "validation_ndcg@10": tried[str(setting)], "tried": tried}
        return setting, power, weight, facts | smoothing

    def _similarity(self, data: EvalSet, setting: Setting) -> Similarity:
        key = (data.name, setting.features, setting.weighting)
        if key not in self._similarities:
            if len(self._similarities) > 8:  # of another set: none is needed again
                self._similarities.clear()
            self._similarities[key] = similarity(data.titles, setting.features, setting.weighting)
        return self._similarities[key]
