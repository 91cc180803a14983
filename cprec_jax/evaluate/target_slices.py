"""Slices that tell what a hit shows: the target could be known by heart, or found by copying words of the history.

*Memorised*: the transition from the user's last item to the target occurs in the training sequences of the set;
*generalised*: it does not. *Overlap*: the highest TF-IDF cosine of the target's title and a title of the history, in
terciles over the users of the set.
"""

from dataclasses import dataclass, field

import numpy as np

from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.interactions import histories, interactions
from cprec_jax.text.title_features import counts, tf_idf

FEATURES = "words 1"


@dataclass(frozen=True, kw_only=True)
class TargetSlices:
    """Name -> bool[n]; the slices of one kind are disjoint and hold all users together. `overlap_terciles`: the two
    bounds."""

    masks: dict[str, np.ndarray] = field(default_factory=dict)
    overlap_terciles: tuple[float, float] = (0.0, 0.0)


def target_slices(corpus: Corpus, data: EvalSet) -> TargetSlices:
    """The slices of a set. Where many users have the same overlap (none at all, say), terciles are of unequal size, or
    one is empty."""
    memorised, overlap = is_memorised(corpus, data), best_overlap(data)
    low, high = map(float, np.quantile(overlap, [1 / 3, 2 / 3]))
    masks = {
        "memorised": memorised,
        "generalised": ~memorised,
        "overlap low": overlap <= low,
        "overlap middle": (overlap > low) & (overlap <= high),
        "overlap high": overlap > high,
    }
    return TargetSlices(masks=masks, overlap_terciles=(low, high))


def is_memorised(corpus: Corpus, data: EvalSet) -> np.ndarray:
    """bool[n]: whether the target directly follows the user's last item anywhere in training."""
    train = interactions(corpus, data, "train")
    inside = train.rows[1:] == train.rows[:-1]
    followed = train.items[:-1][inside] * train.n_items + train.items[1:][inside]
    row, last, age = histories(data, np.arange(len(data)), 1)
    assert np.array_equal(row, np.arange(len(data))) and not age.any(), "a corpus refuses records without a history"
    return np.isin(last * train.n_items + data.target, followed)


def best_overlap(data: EvalSet) -> np.ndarray:
    """float64[n]: the highest cosine of the target's title and one of the history, in [0, 1]."""
    weights_NF = tf_idf(counts(data.titles, FEATURES))
    row, column, _ = histories(data, np.arange(len(data)))
    cosine = np.asarray(weights_NF[column].multiply(weights_NF[data.target[row]]).sum(axis=1)).ravel()
    best = np.zeros(len(data))
    np.maximum.at(best, row, cosine)
    return best
