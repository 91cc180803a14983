"""The skeleton of a trie cut into blocks that stand alone, so that attention inside a block is dense and memory does
not grow with it.

A block is a run of the preorder with copies of the ancestors its nodes lack. A run lacks only the ancestors of its
first node (an ancestor of a later node that comes before the run is an ancestor of the first one, too), so copies are
few: as many a block as that node is deep.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cprec_jax.inference.trie.trie import TitleTrie

ROWS = 64  # of a block: fewer need more copies of ancestors, more a larger share of attention that the mask throws away
_SHARES = (0.5, 0.625, 0.75, 1.0)  # of the rows of a block: how many may branch


@dataclass(frozen=True, kw_only=True)
class SkeletonBlocks:
    """n blocks of M rows; the first `rows_used` of a block are nodes in preorder, the rest is padding (it sees itself
    alone).

    token, depth: int32[n, M] (padding: 0 and 1). visible: bool[n, M, M], whether row i is row j or below it. asked:
    int32[n, Q], the rows whose children's logits are wanted. edge_query, edge_token: int32[n, X], for each edge which
    of those it leaves, and its token. edge_place int32[E]: where each edge below the root is found when blocks x edges
    are flattened; in the order of the trie's edges.
    """

    token: np.ndarray
    depth: np.ndarray
    visible: np.ndarray
    asked: np.ndarray
    edge_query: np.ndarray
    edge_token: np.ndarray
    edge_place: np.ndarray


@dataclass(kw_only=True)
class _Block:
    """What a block holds while it is filled: nodes, which of its rows branch, and pieces (query, first edge, last edge)
    of children."""

    nodes: list[int]
    row_of: dict[int, int]
    asked: list[int]
    pieces: list[tuple[int, int, int]]
    edges: int = 0


def cut_skeleton(trie: TitleTrie, rows: int = ROWS) -> SkeletonBlocks:
    """Blocks of `rows` rows, or of more where a title is too long for that."""
    assert trie.nodes > 0
    rows = max(rows, int(trie.node_depth.max()) + 4)
    first_edge = np.searchsorted(trie.edge_parent, np.arange(1, trie.nodes + 2))
    branching = int(np.count_nonzero(np.diff(first_edge)))
    share = 1.2 * branching / trie.nodes  # filled a little beyond the mean, most blocks are full in all three ways
    asked = max(1, int(rows * next((s for s in _SHARES if s >= share), 1.0)))
    edges = 1 << int(np.ceil(np.log2(1.2 * (first_edge[-1] - first_edge[0]) / trie.nodes * rows)))
    return _arrays(trie, list(_fill(trie, rows, asked, edges, first_edge)), rows, asked, edges, first_edge)


def _fill(trie: TitleTrie, rows: int, asked: int, edges: int, first_edge: np.ndarray) -> Iterator[_Block]:
    parent, ends = trie.node_parent.tolist(), first_edge.tolist()
    block = _opened(parent, 0)
    for node in range(trie.nodes):
        at, last = ends[node], ends[node + 1]
        if len(block.nodes) == rows or (at < last and (len(block.asked) == asked or block.edges == edges)):
            yield block
            block = _opened(parent, node)
        _append(block, node)
        while at < last:
            if block.edges == edges:  # a node with very many children goes on in the next block
                yield block
                block = _opened(parent, node)
                _append(block, node)
            size = min(last - at, edges - block.edges)
            block.pieces.append((len(block.asked), at, at + size))
            block.asked.append(block.row_of[node])
            block.edges += size
            at += size
    yield block


def _opened(parent: list[int], node: int) -> _Block:
    """An empty block, or rather one with the ancestors of `node`, root side first."""
    block = _Block(nodes=[], row_of={}, asked=[], pieces=[])
    above: list[int] = []
    while parent[node] >= 0:
        node = parent[node]
        above.append(node)
    for node in reversed(above):
        _append(block, node)
    return block


def _append(block: _Block, node: int) -> None:
    block.row_of[node] = len(block.nodes)
    block.nodes.append(node)


def _arrays(
    trie: TitleTrie, blocks: list[_Block], rows: int, asked: int, edges: int, first_edge: np.ndarray
) -> SkeletonBlocks:
    n = len(blocks)
    token, query_row = np.zeros((n, rows), np.int32), np.zeros((n, asked), np.int32)
    depth = np.ones_like(token)
    visible = np.broadcast_to(np.eye(rows, dtype=bool), (n, rows, rows)).copy()
    edge_query, edge_token = np.zeros((2, n, edges), np.int32)
    place = np.empty(trie.edges - int(first_edge[0]), np.int32)
    parent = trie.node_parent.tolist()
    for index, block in enumerate(blocks):
        used = np.array(block.nodes)
        token[index, : len(used)], depth[index, : len(used)] = trie.node_token[used], trie.node_depth[used]
        mask = visible[index]
        for row, node in enumerate(block.nodes):
            if parent[node] >= 0:
                mask[row] |= mask[block.row_of[parent[node]]]
        query_row[index, : len(block.asked)] = block.asked
        column = 0
        for query, first, last in block.pieces:
            here = slice(column, column + last - first)
            edge_query[index, here], edge_token[index, here] = query, trie.edge_token[first:last]
            place[first - first_edge[0] : last - first_edge[0]] = index * edges + np.arange(here.start, here.stop)
            column = here.stop
    return SkeletonBlocks(
        token=token,
        depth=depth,
        visible=visible,
        asked=query_row,
        edge_query=edge_query,
        edge_token=edge_token,
        edge_place=place,
    )
