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

    token, depth: int32[n, M] (padding: 0 and 1). visible: bool[n, M, M], whether row i is row j or below it. query_row:
    int32[n, Q], the rows whose children's logits are wanted. edge_query, edge_token: int32[n, X], for each edge which
    of those rows it leaves, and its token. edge_position int32[E]: where each edge below the root lies when blocks x
    edges are flattened; in the order of the trie's edges.
    """

    token: np.ndarray
    depth: np.ndarray
    visible: np.ndarray
    query_row: np.ndarray
    edge_query: np.ndarray
    edge_token: np.ndarray
    edge_position: np.ndarray


@dataclass(kw_only=True)
class _Block:
    """A block while it is filled: its nodes, the rows that branch, and pieces (query, first edge, last edge) of
    children."""

    nodes: list[int]
    row_of: dict[int, int]
    query_row: list[int]
    pieces: list[tuple[int, int, int]]
    edges: int = 0


@dataclass(frozen=True, kw_only=True)
class _Size:
    """How much a block holds at most."""

    rows: int
    queries: int
    edges: int


def cut_skeleton(trie: TitleTrie, rows: int = ROWS) -> SkeletonBlocks:
    """Blocks of `rows` rows, or of more where a title is too long for that."""
    assert trie.nodes > 0
    rows = max(rows, int(trie.node_depth.max()) + 4)
    first_edge = np.searchsorted(trie.edge_parent, np.arange(trie.nodes + 2))
    branching = int(np.count_nonzero(np.diff(first_edge[1:])))
    share = 1.2 * branching / trie.nodes  # filled a little beyond the mean, most blocks are full in all three ways
    queries = max(1, int(rows * next((s for s in _SHARES if s >= share), 1.0)))
    edges = 1 << int(np.ceil(np.log2(1.2 * (first_edge[-1] - first_edge[1]) / trie.nodes * rows)))
    size = _Size(rows=rows, queries=queries, edges=edges)
    return _arrays(trie, list(_fill(trie, size, first_edge)), size, first_edge)


def _fill(trie: TitleTrie, size: _Size, first_edge: np.ndarray) -> Iterator[_Block]:
    parent, ends = trie.node_parent.tolist(), first_edge.tolist()
    block = _opened(parent, 1)
    for node in range(1, trie.nodes + 1):
        edge, last = ends[node], ends[node + 1]
        no_edge_fits = len(block.query_row) == size.queries or block.edges == size.edges
        if len(block.nodes) == size.rows or (edge < last and no_edge_fits):
            yield block
            block = _opened(parent, node)
        _append(block, node)
        while edge < last:
            if block.edges == size.edges:  # a node with very many children goes on in the next block
                yield block
                block = _opened(parent, node)
                _append(block, node)
            count = min(last - edge, size.edges - block.edges)
            block.pieces.append((len(block.query_row), edge, edge + count))
            block.query_row.append(block.row_of[node])
            block.edges += count
            edge += count
    yield block


def _opened(parent: list[int], node: int) -> _Block:
    """A block with the ancestors of `node` alone, root side first."""
    block = _Block(nodes=[], row_of={}, query_row=[], pieces=[])
    above: list[int] = []
    while parent[node] > 0:
        node = parent[node]
        above.append(node)
    for node in reversed(above):
        _append(block, node)
    return block


def _append(block: _Block, node: int) -> None:
    block.row_of[node] = len(block.nodes)
    block.nodes.append(node)


def _arrays(trie: TitleTrie, blocks: list[_Block], size: _Size, first_edge: np.ndarray) -> SkeletonBlocks:
    n = len(blocks)
    token, query_row = np.zeros((n, size.rows), np.int32), np.zeros((n, size.queries), np.int32)
    depth = np.ones_like(token)
    visible = np.broadcast_to(np.eye(size.rows, dtype=bool), (n, size.rows, size.rows)).copy()
    edge_query, edge_token = np.zeros((2, n, size.edges), np.int32)
    edge_position = np.empty(trie.edges - int(first_edge[1]), np.int32)
    parent = trie.node_parent.tolist()
    for index, block in enumerate(blocks):
        used = np.array(block.nodes)
        token[index, : len(used)], depth[index, : len(used)] = trie.node_token[used], trie.node_depth[used]
        mask = visible[index]
        for row, node in enumerate(block.nodes):
            if parent[node] > 0:
                mask[row] |= mask[block.row_of[parent[node]]]
        query_row[index, : len(block.query_row)] = block.query_row
        column = 0
        for query, first, last in block.pieces:
            columns = np.arange(column, column + last - first)
            edge_query[index, columns], edge_token[index, columns] = query, trie.edge_token[first:last]
            edge_position[first - first_edge[1] : last - first_edge[1]] = index * size.edges + columns
            column += last - first
    return SkeletonBlocks(
        token=token,
        depth=depth,
        visible=visible,
        query_row=query_row,
        edge_query=edge_query,
        edge_token=edge_token,
        edge_position=edge_position,
    )
