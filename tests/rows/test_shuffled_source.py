"""Dealing out keeps lengths and counts, and nothing else."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_jax.rows.shuffled_source import deal


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=20), st.integers(0, 3))
def test_every_item_stays_as_often_and_repeats_are_counted(sequences: list[list[int]], seed: int) -> None:
    items = np.array([item for sequence in sequences for item in sequence], np.int32)
    offsets = offsets_of([len(sequence) for sequence in sequences])
    dealt, repeats = deal(items, offsets, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(dealt), np.sort(items))
    sequences_dealt = [dealt[a:b] for a, b in itertools.pairwise(offsets)]
    assert repeats == sum(len(sequence) - len(set(sequence.tolist())) for sequence in sequences_dealt)


@pytest.mark.parametrize("busy", [60, 150])
def test_no_user_gets_an_item_twice_where_nobody_had_one_twice(busy: int) -> None:
    """Popular items and busy users, who hold up to three quarters of the catalogue: a permutation alone repeats
    many."""
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, 201)
    lengths = [busy if user % 10 == 0 else 5 for user in range(400)]
    items = np.concatenate([rng.choice(200, n, replace=False, p=popularity / popularity.sum()) for n in lengths])
    offsets = offsets_of(lengths)
    shuffled = np.random.default_rng(1).permutation(items)
    plain = sum(n - len(set(shuffled[a : a + n].tolist())) for a, n in zip(offsets[:-1], lengths, strict=True))
    assert plain > 500
    dealt, repeats = deal(items, offsets, np.random.default_rng(1))
    assert repeats < 0.01 * plain
    np.testing.assert_array_equal(np.bincount(dealt, minlength=200), np.bincount(items, minlength=200))


def test_an_item_of_more_occurrences_than_users_is_left_and_counted() -> None:
    dealt, repeats = deal(np.array([3, 3, 3, 1]), np.array([0, 2, 4]), np.random.default_rng(0))
    assert sorted(dealt.tolist()) == [1, 3, 3, 3] and repeats == 1


def test_the_seed_decides() -> None:
    items, offsets = np.arange(60), offsets_of([6] * 10)
    first, again, other = (deal(items, offsets, np.random.default_rng(seed))[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
