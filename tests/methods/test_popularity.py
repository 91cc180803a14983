"""Baselines that need no training, through the harness's own collector."""

import numpy as np
import pytest

from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.collect import collect
from cprec_jax.evaluate.eval_set import EvalSet, open_set
from cprec_jax.methods.popularity import Popularity
from cprec_jax.methods.random import Random


@pytest.fixture(scope="module")
def books(tiny_rows) -> EvalSet:
    return open_set(Corpus.open(tiny_rows / "corpus"), "Books", "test", ("full", "u20"), False, None, 0)


def test_popularity_ranks_by_training_counts(books: EvalSet) -> None:
    found = collect(Popularity(), books, "popularity")
    count = books.train_count
    for user in range(len(books)):
        own = count[books.target[user]]
        assert (
            found.n_better["full"][user] == (count > own).sum()
            and found.n_tied["full"][user] == (count == own).sum() - 1
        )
        here = count[books.candidates["u20"][user]]
        assert found.n_better["u20"][user] == (here > own).sum()


def test_popularity_counts_the_training_period_only(books: EvalSet, tiny_rows) -> None:
    train = Corpus.open(tiny_rows / "corpus").sequences("domain", "Books")
    counted = np.bincount(train.items, minlength=books.items.max() + 1)[books.items]
    assert np.array_equal(counted, books.train_count)


def test_smoothed_probabilities_sum_to_one(books: EvalSet) -> None:
    for scored in Popularity().score(books):
        assert scored.log_probs is not None
        np.testing.assert_allclose(np.exp(scored.log_probs).sum(axis=1), 1)
        assert np.isfinite(scored.log_probs).all(), "an item nobody took in training is possible, too"
    count = books.train_count
    found = collect(Popularity(), books, "popularity")
    np.testing.assert_allclose(found.nll, -np.log((count[books.target] + 1) / (count.sum() + len(count))))


def test_random_ties_everything(books: EvalSet) -> None:
    found = collect(Random(), books, "random")
    assert set(found.n_better["full"]) == {0} and set(found.n_tied["full"]) == {len(books.items) - 1} and found.flat
    np.testing.assert_allclose(found.nll, np.log(len(books.items)))
