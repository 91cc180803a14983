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
    found: list[list[int]] = []
    for numbers, offsets in neighbour_lists(titles, length, np.random.default_rng(seed)):
        found += [numbers[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    return found


@pytest.mark.parametrize("block", [1, 500, 10**6])
def test_neighbours_are_those_of_all_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(title_neighbours, "BLOCK", block)
    titles = [*made_titles(80), "unlike anything"]
    vectors = tf_idf(counts(titles, FEATURES)).toarray()
    cosine = np.round(vectors @ vectors.T, 9)
    found = lists_of(titles, 6)
    assert [each[0] for each in found] == list(range(81)) and found[80] == [80]
    for own, *near in found:
        others = np.delete(np.arange(81), own)
        best = np.sort(cosine[own, others])[::-1][:5]
        assert len(set(near)) == len(near) and own not in near
        np.testing.assert_allclose(cosine[own, near], best[best > 0], atol=2e-9)


def test_ties_go_by_the_seed_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = [f"red lamp {number}" for number in range(40)]
    first = lists_of(titles, 5)
    assert lists_of(titles, 5) == first != lists_of(titles, 5, seed=1)
    assert len({number for each in first for number in each[1:]}) > 4
    monkeypatch.setattr(title_neighbours, "BLOCK", 100)
    assert lists_of(titles, 5) == first


def test_a_word_of_too_many_titles_relates_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = ["the lamp", "the shoe", "the desk", "oak desk"]
    assert all(len(each) > 1 for each in lists_of(titles, 4))
    monkeypatch.setattr(title_neighbours, "MOST_TITLES", 2)
    assert lists_of(titles, 4) == [[0], [1], [2, 3], [3, 2]]


def test_a_catalogue_without_common_words_and_an_empty_one() -> None:
    assert lists_of(["a1", "b2"], 4) == [[0], [1]]
    assert lists_of([], 4) == []
