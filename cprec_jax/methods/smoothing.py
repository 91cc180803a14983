"""Raw scores, never negative, as a ranking and as a distribution: ties go by popularity, probabilities are smoothed by
it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.interactions import Interactions
from cprec_jax.evaluate.method import user_batches
from cprec_jax.evaluate.metrics import per_user
from cprec_jax.evaluate.ranks import rank

TIE_BREAK = 1e-6  # of popularity: far below any difference of raw scores

SHARPNESS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # powers of similarities, which are likelier small than counts are
SHARPENED_SMOOTHING = tuple(float(10.0**exponent) for exponent in np.arange(-8, 4.5, 0.5))

Raw = Callable[[EvalSet, np.ndarray], np.ndarray]  # (set, users) -> raw scores float64[len(users), N]


def prior(train: Interactions) -> np.ndarray:
    """Add-one smoothed popularity, float64[N]; without any interaction it is uniform."""
    counts_N = np.bincount(train.items, minlength=train.n_items) + 1.0
    return counts_N / counts_N.sum()


def ranked(raw_BN: np.ndarray, prior_N: np.ndarray) -> np.ndarray:
    """The scores to rank by: the raw ones, and popularity among equals."""
    return raw_BN + TIE_BREAK * prior_N


def smoothed(raw_BN: np.ndarray, prior_N: np.ndarray, weight: float) -> np.ndarray:
    """Probabilities (raw + weight * prior) / (sum of raw + weight): more evidence, less smoothing."""
    return (raw_BN + weight * prior_N) / (raw_BN.sum(axis=1, keepdims=True) + weight)


def nll_by_weight(
    raw: Raw, prior_N: np.ndarray, data: EvalSet, weights: Sequence[float], powers: Sequence[float] = (1.0,)
) -> dict[tuple[float, float], float]:
    """Mean NLL of the targets in nats by (power of the raw scores, smoothing weight)."""
    total = {(power, weight): 0.0 for power in powers for weight in weights}
    for users in user_batches(len(data)):
        raw_BN, target = raw(data, users), data.target[users]
        for power in powers:
            sharpened_BN = raw_BN**power
            raw_target, mass = sharpened_BN[np.arange(len(users)), target], sharpened_BN.sum(axis=1)
            for weight in weights:
                total[power, weight] -= float(np.log((raw_target + weight * prior_N[target]) / (mass + weight)).sum())
    return {key: value / len(data) for key, value in total.items()}


def sharpened(raw: Raw, prior_N: np.ndarray, data: EvalSet) -> tuple[float, float, dict[str, Any]]:
    """Power and smoothing weight with the lowest NLL on validation users, and what of them is recorded."""
    nll = nll_by_weight(raw, prior_N, data, SHARPENED_SMOOTHING, SHARPNESS)
    power, weight = min(nll, key=lambda key: nll[key])
    return (
        power,
        weight,
        {"sharpness": power, "smoothing": weight, "validation_nll": nll[power, weight], "validation_users": len(data)},
    )


def ndcg(raw: Raw, prior_N: np.ndarray, data: EvalSet) -> float:
    """Mean NDCG@10."""
    return sum(ndcg_sum(raw(data, users), prior_N, data, users) for users in user_batches(len(data))) / len(data)


def ndcg_sum(raw_BN: np.ndarray, prior_N: np.ndarray, data: EvalSet, users: np.ndarray) -> float:
    """NDCG@10 of some users, added up."""
    ranks = rank(ranked(raw_BN, prior_N), data.target[users], data.excluded(users))
    return float(per_user(ranks.n_better, ranks.n_tied)["ndcg@10"].sum())
