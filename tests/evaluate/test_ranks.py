"""Counting what beats and what ties the target."""

import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.evaluate.ranks import rank
from cprec_jax.inference.finite import check_finite


@pytest.mark.parametrize("masked", [False, True])
def test_against_a_loop(masked: bool) -> None:
    rng = np.random.default_rng(0)
    scores, target = rng.integers(0, 6, (50, 30)).astype(float), rng.integers(0, 30, 50)
    excluded = rng.random((50, 30)) < 0.3 if masked else None
    found = rank(scores, target, excluded)
    for user in range(50):
        others = [c for c in range(30) if c != target[user] and not (masked and excluded[user, c])]
        assert found.n_better[user] == sum(scores[user, c] > scores[user, target[user]] for c in others)
        assert found.n_tied[user] == sum(scores[user, c] == scores[user, target[user]] for c in others)
        assert found.n_candidates[user] == len(others) + 1


def test_a_target_in_the_history_stays_a_candidate() -> None:
    found = rank(np.array([[1.0, 2.0, 3.0]]), np.array([0]), np.array([[True, True, False]]))
    assert (found.n_better, found.n_tied, found.n_candidates) == (1, 0, 2)


def test_permuting_candidates_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    scores, target = rng.integers(0, 4, (20, 15)).astype(float), rng.integers(0, 15, 20)
    order = rng.permutation(15)
    found, permuted = rank(scores, target), rank(scores[:, order], np.argsort(order)[target])
    assert np.array_equal(found.n_better, permuted.n_better) and np.array_equal(found.n_tied, permuted.n_tied)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = np.zeros((3, 4))
    scores[1, 2] = bad
    with pytest.raises(UserError, match=rf"cpt on Toys: score {bad} for candidate 2 of user 1"):
        check_finite(scores, "cpt on Toys")
