"""Scores -> ranks: how many candidates beat the target, and how many have exactly its score."""

from dataclasses import dataclass

import numpy as np

from cprec_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Per user: candidates that score above the target, OTHER candidates with exactly its score, and how many candidates there were."""

    n_better: np.ndarray  # int64[B]
    n_tied: np.ndarray  # int64[B]
    n_candidates: np.ndarray  # int64[B]


def check_finite(scores_BN: np.ndarray, who: str) -> None:
    """NaN or infinite scores would be ranked silently (NaN is never better, so it looks perfect): refuse them."""
    bad = ~np.isfinite(scores_BN)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(f"{who}: score {scores_BN[row, column]} for candidate {column} of user {row} in the batch; scores must be finite")


def rank(scores_BN: np.ndarray, target_B: np.ndarray, excluded_BN: np.ndarray | None = None) -> Ranks:
    """Rank column `target_B` of every row of finite scores. `excluded_BN` (True = not a candidate) never excludes the target."""
    rows = np.arange(len(target_B))
    target_B1 = scores_BN[rows, target_B][:, None]
    candidate = np.ones(scores_BN.shape, bool) if excluded_BN is None else ~excluded_BN
    candidate[rows, target_B] = True
    better = np.count_nonzero((scores_BN > target_B1) & candidate, axis=1)
    equal = np.count_nonzero((scores_BN == target_B1) & candidate, axis=1) - 1
    return Ranks(n_better=better, n_tied=equal, n_candidates=np.count_nonzero(candidate, axis=1))
