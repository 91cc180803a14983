"""Every ranking metric as a closed form of (n_better, n_tied): its expectation when ties are broken at random."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

HIT_RATE_AT = (1, 5, 10, 20, 100)
NDCG_AT = (5, 10, 20)
METRICS = (*(f"hr@{k}" for k in HIT_RATE_AT), *(f"ndcg@{k}" for k in NDCG_AT), "mrr")


def per_user(n_better: np.ndarray, n_tied: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric of each user, float64[n]. The target's rank is uniform over n_better + 1 .. n_better + n_tied + 1.

    HR@K: is it among the first K. NDCG@K: 1 / log2(1 + rank) if it is (one relevant item, so the ideal is 1). MRR: 1 /
    rank.
    """
    first, last = np.asarray(n_better, np.int64), np.asarray(n_better, np.int64) + np.asarray(n_tied, np.int64) + 1
    width = last - first
    ranks = np.arange(1, int(last.max(initial=1)) + 1, dtype=np.float64)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + ranks))])
    inverses = np.concatenate([[0.0], np.cumsum(1 / ranks)])
    values: dict[str, np.ndarray] = {}
    for k in HIT_RATE_AT:
        values[f"hr@{k}"] = (np.minimum(last, k) - np.minimum(first, k)) / width
    for k in NDCG_AT:
        values[f"ndcg@{k}"] = (discounts[np.minimum(last, k)] - discounts[np.minimum(first, k)]) / width
    values["mrr"] = (inverses[last] - inverses[first]) / width
    return values


def only_bounds(entry: Mapping[str, Any], protocol: str) -> tuple[str, ...]:
    """The metrics of a set's entry in results.json that are lower bounds: with `ranks_exact_to` a target beyond counts
    as the last."""
    cut = entry.get("ranks_exact_to", math.inf) < entry.get("items", math.inf)
    return ("mrr",) if cut and protocol.startswith("full") else ()


def random_ranker(n: int) -> dict[str, float]:
    """The random ranking of n candidates in closed form, and log n, the NLL of the uniform distribution."""
    values = per_user(np.zeros(1, np.int64), np.full(1, n - 1))
    return {name: float(value[0]) for name, value in values.items()} | {"nll": float(np.log(n))}


def summary(n_better: np.ndarray, n_tied: np.ndarray, nll: np.ndarray | None, samples: int, seed: int = 0) -> dict:
    """Means over users, and `ci95`: the 2.5 % and 97.5 % quantiles over `samples` bootstrap resamples of the users.

    Ranks are [n], or [seeds, n] for a method trained with several seeds: then each user's mean over seeds is what is
    averaged, and `by_seed` lists the means of the seeds. `nll` in nats, of the same shape, may be None (a method
    without probabilities); then there is no `nll` entry.
    """
    values = per_user(n_better, n_tied)
    if nll is not None:
        values["nll"] = np.asarray(nll, np.float64)
    by_seed = {}
    if np.ndim(n_better) == 2:
        by_seed = (
            {name: [float(mean) for mean in value.mean(axis=1)] for name, value in values.items()}
            if len(n_better) > 1
            else {}
        )
        values = {name: value.mean(axis=0) for name, value in values.items()}
    names = list(values)
    matrix = np.stack([values[name] for name in names], axis=1)
    result: dict = {name: float(mean) for name, mean in zip(names, matrix.mean(axis=0), strict=True)}
    if samples and len(matrix) > 1:
        low, high = np.quantile(_bootstrap_means(matrix, samples, seed), [0.025, 0.975], axis=0)
        result["ci95"] = {name: [float(a), float(b)] for name, a, b in zip(names, low, high, strict=True)}
    return result | ({"by_seed": by_seed} if by_seed else {})


def _bootstrap_means(matrix: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means of the columns of float64[n, m] over resamples of its rows: float64[samples, m]."""
    rng = np.random.default_rng(seed)
    n = len(matrix)
    means = np.empty((samples, matrix.shape[1]))
    for start in range(0, samples, 50):
        size = min(50, samples - start)
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        # How often each user is drawn turns all resamples into one product.
        weights = np.bincount(drawn.reshape(-1), minlength=size * n).reshape(size, n)
        means[start : start + size] = weights @ matrix / n
    return means
