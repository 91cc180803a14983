"""Scores -> ranks: how many candidates beat the target, and how many have exactly its score."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Per user: how many candidates score above the target, how many OTHER candidates have exactly its score, and how
    many candidates there were."""

    n_better: np.ndarray  # int64[B]
    n_tied: np.ndarray  # int64[B]
    n_candidates: np.ndarray  # int64[B]


def rank(scores_BN: np.ndarray, target_B: np.ndarray, excluded_BN: np.ndarray | None = None) -> Ranks:
    """Rank column `target_B` of every row of finite scores. `excluded_BN` (True = not a candidate) never excludes the
    target."""
    rows = np.arange(len(target_B))
    target_B1 = scores_BN[rows, target_B][:, None]
    candidate = np.ones(scores_BN.shape, bool) if excluded_BN is None else ~excluded_BN
    candidate[rows, target_B] = True
    better = np.count_nonzero((scores_BN > target_B1) & candidate, axis=1)
    equal = np.count_nonzero((scores_BN == target_B1) & candidate, axis=1) - 1
    return Ranks(n_better=better, n_tied=equal, n_candidates=np.count_nonzero(candidate, axis=1))
