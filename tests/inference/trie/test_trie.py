"""The trie's arrays against sets of prefixes, on random catalogues."""

import time

import numpy as np
import pytest

from cprec_jax.inference.trie.blocks import ROWS, cut_skeleton
from cprec_jax.inference.trie.trie import TitleTrie, build_trie
from tests.inference.titles import END, ragged, random_titles


def prefixes_of(trie: TitleTrie) -> list[tuple[int, ...]]:
    """The tokens on the way to each node, root first."""
    assert (trie.node_parent[0], trie.node_depth[0]) == (-1, 0)
    prefixes: list[tuple[int, ...]] = [()]
    for parent, token in zip(trie.node_parent[1:], trie.node_token[1:], strict=True):
        prefixes.append((*prefixes[parent], int(token)))
    return prefixes


def way_of(title: tuple[int, ...], branching: set[tuple[int, ...]]) -> list[tuple[tuple[int, ...], int]]:
    """The edges on the way of a title, each as the prefix that it leaves and its token."""
    ended = (*title, END)
    return [(ended[:depth], ended[depth]) for depth in range(len(ended)) if ended[:depth] in branching]


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
    assert [len(p) for p in prefixes] == trie.node_depth.tolist()
    edges = [(prefixes[parent], int(token)) for parent, token in zip(trie.edge_parent, trie.edge_token, strict=True)]
    assert set(edges) == {(prefix, token) for prefix in branching for token in children[prefix]} and len(edges) == len(
        set(edges)
    )
    assert np.all(np.diff(trie.edge_parent) >= 0)
    ways = trie.ways(np.arange(len(titles)))
    for title, edge, copies, of_title in zip(titles, trie.title_edge, trie.title_copies, ways, strict=True):
        assert copies == titles.count(title)
        assert [edges[number] for number in of_title if number >= 0][::-1] == way_of(title, branching)
        way = []
        while edge >= 0:
            way.append(edges[edge])
            assert trie.edge_level[edge] == 0 or trie.edge_up[edge] >= 0
            edge = trie.edge_up[edge]
        assert way[::-1] == way_of(title, branching)


@pytest.mark.parametrize("seed", range(10))
def test_probabilities_sum_to_one(seed: int) -> None:
    trie = build_trie(*ragged(random_titles(seed, 200)))
    logits = np.random.default_rng(seed).normal(size=trie.edges) * 5
    assert np.exp(trie.log_probs(logits)).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rows", [1, 16, 64, 10_000])
def test_blocks_hold_every_edge_at_a_row_that_sees_just_its_ancestors(rows: int) -> None:
    trie = build_trie(*ragged(random_titles(3, 400, tokens=7)))
    blocks = cut_skeleton(trie, rows)
    prefixes = prefixes_of(trie)

    def prefix(block: int, row: int) -> tuple[int, ...]:
        way = np.flatnonzero(blocks.visible[block, row])
        assert way[-1] == row and blocks.depth[block, way].tolist() == list(range(1, len(way) + 1))
        return tuple(int(t) for t in blocks.token[block, way])

    below = np.flatnonzero(trie.edge_parent > 0)
    width = blocks.edge_token.shape[1]
    assert len(np.unique(blocks.edge_position)) == len(below) == len(blocks.edge_position)
    for edge, position in zip(below, blocks.edge_position, strict=True):
        block, column = divmod(int(position), width)
        row = int(blocks.query_row[block, blocks.edge_query[block, column]])
        assert prefix(block, row) == prefixes[trie.edge_parent[edge]]
        assert blocks.edge_token[block, column] == trie.edge_token[edge]
    assert len(blocks.token) == 1 if rows > 2 * trie.nodes else len(blocks.token) > 1


def test_children_beyond_a_block_go_on_in_the_next() -> None:
    titles = (
        [(1, t) for t in range(2, 60)] + [(2, t) for t in range(3)] + [(t, t, s) for t in range(3, 40) for s in (1, 2)]
    )
    trie = build_trie(*ragged(titles))
    blocks = cut_skeleton(trie, 8)
    assert blocks.edge_token.shape[1] < 58
    assert len(np.unique(blocks.edge_position)) == np.count_nonzero(trie.edge_parent)
    assert np.array_equal(blocks.edge_token.reshape(-1)[blocks.edge_position], trie.edge_token[trie.edge_parent > 0])


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
    blocks = cut_skeleton(trie)
    assert time.monotonic() - begun < 30, "building takes a fraction of a second on an idle core"
    assert trie.nodes < blocks.token.size < 1.5 * trie.nodes and blocks.token.shape[1] == ROWS
    assert len(np.unique(trie.title_edge)) == round(np.sum(1 / trie.title_copies))
