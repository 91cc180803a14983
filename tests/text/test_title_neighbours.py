"""Lists of titles alike against every pair of titles."""

import itertools

import numpy as np
import pytest

from cprec_jax.text import title_neighbours
from cprec_jax.text.title_features import counts, tf_idf
from cprec_jax.text.title_neighbours import FEATURES, neighbour_lists

WORDS = ("red", "blue", "lamp", "shoe", "desk", "for", "kids", "large", "steel", "oak")


def made_titles(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 5), replace=False)) + f" {number}" for number in range(n)]


def lists_of(titles: list[str], length: int, seed: int = 0) -> list[list[int]]:
    lists: list[list[int]] = []
    for numbers, offsets in neighbour_lists(titles, length, np.random.default_rng(seed)):
        lists += [numbers[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    return lists


@pytest.mark.parametrize("block", [1, 500, 10**6])
def test_neighbours_are_those_of_all_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(title_neighbours, "BLOCK", block)
    titles = [*made_titles(80), "unlike anything"]
    vectors = tf_idf(counts(titles, FEATURES)).toarray()
    cosine = np.round(vectors @ vectors.T, 9)
    lists = lists_of(titles, 6)
    assert [neighbours[0] for neighbours in lists] == list(range(81)) and lists[80] == [80]
    for item, *near in lists:
        others = np.delete(np.arange(81), item)
        best = np.sort(cosine[item, others])[::-1][:5]
        assert len(set(near)) == len(near) and item not in near
        np.testing.assert_allclose(cosine[item, near], best[best > 0], atol=2e-9)


def test_ties_go_by_the_seed_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = [f"red lamp {number}" for number in range(40)]
    first = lists_of(titles, 5)
    assert lists_of(titles, 5) == first != lists_of(titles, 5, seed=1)
    assert len({number for neighbours in first for number in neighbours[1:]}) > 4
    monkeypatch.setattr(title_neighbours, "BLOCK", 100)
    assert lists_of(titles, 5) == first


def test_a_word_of_too_many_titles_relates_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = ["the lamp", "the shoe", "the desk", "oak desk"]
    assert all(len(neighbours) > 1 for neighbours in lists_of(titles, 4))
    monkeypatch.setattr(title_neighbours, "MOST_TITLES", 2)
    assert lists_of(titles, 4) == [[0], [1], [2, 3], [3, 2]]


def test_a_catalogue_without_common_words_and_an_empty_one() -> None:
    assert lists_of(["a1", "b2"], 4) == [[0], [1]]
    assert lists_of([], 4) == []
