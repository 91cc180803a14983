"""The trie's arrays against sets of prefixes, on random catalogues."""

import time

import numpy as np
import pytest

from cprec_jax.evaluate.title_trie import TitleTrie, build_trie
from cprec_jax.evaluate.trie_groups import group_skeleton
from tests.evaluate.titles import END, ragged, random_titles


def prefixes_of(trie: TitleTrie) -> list[tuple[int, ...]]:
    """The tokens on the way to each node, root first."""
    found: list[tuple[int, ...]] = [()]
    for parent, token in zip(trie.node_parent, trie.node_token, strict=True):
        found.append((*found[parent + 1], int(token)))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_skeleton_and_edges_are_those_of_the_set_of_prefixes(seed: int) -> None:
    titles = random_titles(seed, count=1 + seed, tokens=1 + seed % 4)
    trie = build_trie(*ragged(titles))
    children: dict[tuple[int, ...], set[int]] = {}
    for title in titles:
        for depth in range(len(title) + 1):
            children.setdefault(title[:depth], set()).add((*title, END)[depth])
    branching = {prefix for prefix, following in children.items() if len(following) > 1}
    skeleton = {prefix[:depth] for prefix in branching for depth in range(1, len(prefix) + 1)}

    prefixes = prefixes_of(trie)
    assert set(prefixes[1:]) == skeleton and trie.nodes == len(skeleton)
    assert [len(p) for p in prefixes[1:]] == trie.node_depth.tolist()
    edges = [(prefixes[parent], int(token)) for parent, token in zip(trie.edge_parent, trie.edge_token, strict=True)]
    assert set(edges) == {(prefix, token) for prefix in branching for token in children[prefix]} and len(edges) == len(set(edges))
    assert np.all(np.diff(trie.edge_parent) >= 0)
    for title, edge, copies in zip(titles, trie.title_edge, trie.title_copies, strict=True):
        assert copies == titles.count(title)
        way = []
        while edge >= 0:
            way.append(edges[edge])
            assert trie.edge_level[edge] == 0 or trie.edge_up[edge] >= 0
            edge = trie.edge_up[edge]
        ended = (*title, END)
        assert way[::-1] == [(ended[:depth], ended[depth]) for depth in range(len(ended)) if ended[:depth] in branching]


@pytest.mark.parametrize("seed", range(10))
def test_probabilities_sum_to_one(seed: int) -> None:
    trie = build_trie(*ragged(random_titles(seed, 200)))
    logits = np.random.default_rng(seed).normal(size=trie.edges) * 5
    assert np.exp(trie.log_probs(logits)).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 50, 10_000])
def test_groups_hold_every_node_with_its_ancestors(chunk: int) -> None:
    trie = build_trie(*ragged(random_titles(3, 400, tokens=7)))
    groups = group_skeleton(trie, chunk)
    tokens = [groups.token[g] for g in range(len(groups.token))]
    prefixes = prefixes_of(trie)

    def prefix(group: int, slot: int) -> tuple[int, ...]:
        first = 0
        for block in groups.ancestors:
            if slot < first + block.shape[1]:
                way = block[group, slot - first]
                way = way[way >= 0]
                assert way[-1] == slot and len(way) == groups.depth[group, slot]
                return tuple(int(t) for t in tokens[group][way])
            first += block.shape[1]
        raise AssertionError(slot)

    below = np.flatnonzero(trie.edge_parent > 0)
    width = groups.edge_slot.shape[1]
    assert len(np.unique(groups.edge_place)) == len(below)
    for edge, place in zip(below, groups.edge_place, strict=True):
        group, column = divmod(int(place), width)
        assert prefix(group, int(groups.edge_slot[group, column])) == prefixes[trie.edge_parent[edge]]
        assert groups.edge_token[group, column] == trie.edge_token[edge]
    if chunk >= trie.nodes:
        assert groups.token.shape == (1, trie.nodes)
    else:
        assert len(groups.token) == -(-trie.nodes // chunk)


def test_one_title_and_titles_all_alike_have_no_edges() -> None:
    for titles in ([(1, 2, 3)], [(4, 5)] * 3):
        trie = build_trie(*ragged(titles))
        assert trie.nodes == trie.edges == 0
        np.testing.assert_allclose(trie.log_probs(np.zeros(0)), -np.log(len(titles)))


def test_a_hundred_thousand_titles_take_seconds() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 40, 100_000)
    tokens = rng.integers(0, 30, lengths.sum() + len(lengths)).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    tokens[offsets[1:] - 1] = END
    begun = time.monotonic()
    trie = build_trie(tokens, offsets)
    groups = group_skeleton(trie, 4096)
    assert time.monotonic() - begun < 30, "building takes a fraction of a second on an idle core"
    assert len(groups.token) == -(-trie.nodes // 4096) > 1
    assert len(np.unique(trie.title_edge)) == round(np.sum(1 / trie.title_copies))
