"""The title trie of a catalogue: which prefixes need a forward pass, and how titles' probabilities follow from their
edges.

Under the `trie` rule every step is renormalised over the children that exist, so a forced token has probability 1 and
needs no forward pass. Only the SKELETON is evaluated: the branching nodes and their ancestors. The root is the end of
the prompt.

Everything is done on whole columns (a catalogue of 100,000 titles takes seconds). r counts the distinct titles, the
"leaves", sorted by their tokens; `common[r]` is how many tokens leaf r shares with leaf r - 1.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class TitleTrie:
    """Static arrays of one catalogue; n skeleton nodes, the root among them, E edges below branching nodes, N titles.

    Nodes are in preorder: 0 is the root, and a node's descendants follow it directly. Edges are ordered by the node
    they leave, so siblings are neighbours.

    node_token, node_depth int32[n]: 0 for the root. node_parent int32[n]: -1 for the root.
    edge_parent int32[E], ascending: the node that an edge leaves. edge_token int32[E]. edge_up int32[E]: the edge
    before it on the way from the root, -1 = none. edge_level int32[E]: how many edges are above it.
    title_edge int32[N]: the last edge on a title's way; -1 in a catalogue of one title. title_copies int32[N]: how
    many titles tokenise alike, itself included; they share a leaf and its probability.
    """

    node_token: np.ndarray
    node_depth: np.ndarray
    node_parent: np.ndarray
    edge_parent: np.ndarray
    edge_token: np.ndarray
    edge_up: np.ndarray
    edge_level: np.ndarray
    title_edge: np.ndarray
    title_copies: np.ndarray

    @property
    def nodes(self) -> int:
        """How many skeleton nodes are below the root: what must be evaluated after the prompt."""
        return len(self.node_token) - 1

    @property
    def edges(self) -> int:
        return len(self.edge_token)

    def ways(self, titles: np.ndarray) -> np.ndarray:
        """int64[C, levels]: the edges on the ways of C titles, each way from its last edge to its first; -1 where a way
        is shorter than the longest of the catalogue."""
        levels = int(self.edge_level.max(initial=-1)) + 1
        ways = np.full((len(titles), levels), -1, np.int64)
        edge = self.title_edge[titles].astype(np.int64)
        for level in range(levels):
            ways[:, level] = edge
            edge = np.where(edge >= 0, self.edge_up[np.maximum(edge, 0)], -1)
        return ways

    def log_probs(self, edge_logits: np.ndarray) -> np.ndarray:
        """Reference in numpy: log-probability of every title, float64[N], from the logit of every edge, float[E]."""
        logits = edge_logits.astype(np.float64)
        top = np.full(self.nodes + 1, -np.inf)
        np.maximum.at(top, self.edge_parent, logits)
        total = np.zeros(self.nodes + 1)
        np.add.at(total, self.edge_parent, np.exp(logits - top[self.edge_parent]))
        edge = logits - top[self.edge_parent] - np.log(total[self.edge_parent])
        for level in range(1, int(self.edge_level.max(initial=0)) + 1):
            of_level = np.flatnonzero(self.edge_level == level)
            edge[of_level] += edge[self.edge_up[of_level]]
        path = np.where(self.title_edge >= 0, edge[np.maximum(self.title_edge, 0)] if len(edge) else 0.0, 0.0)
        return path - np.log(self.title_copies)


def build_trie(tokens: np.ndarray, offsets: np.ndarray) -> TitleTrie:
    """Build the trie of titles `tokens[offsets[i]:offsets[i + 1]]`; no title may be a strict prefix of another
    (`Catalogue` sees to it)."""
    rows, leaf_of, copies = _distinct(tokens, offsets)
    common = np.zeros(len(rows) + 1, np.int64)
    common[1:-1] = np.argmax(rows[1:] != rows[:-1], axis=1)

    # Leaf r opens the nodes at depths common[r] + 1 .. common[r + 1]: those it shares with the next leaf but not with
    # the one before.
    count = np.maximum(common[1:] - common[:-1], 0)
    first_node = np.concatenate([[0], np.cumsum(count)])
    leaf = np.repeat(np.arange(len(rows)), count)
    depth = common[leaf] + 1 + np.arange(len(leaf)) - first_node[leaf]
    parent = _last_of_depth(depth, depth - 1, np.arange(len(depth)))

    # Two neighbouring leaves part at a node, and every branching node parts some pair of them. `leaf`, `depth` and
    # `parent` are without the root, which is node 0 from here on.
    parting = _last_of_depth(depth, common[1:-1], first_node[1:-1]) + 1
    branching = np.zeros(len(depth) + 1, bool)
    branching[parting] = True

    # An edge is opened by the first leaf that takes it: below the node where the leaf parts, and below each branching
    # node it opens.
    opened = np.flatnonzero(branching[1:])
    root = np.zeros(int(branching[0]), np.int64)
    edge_leaf = np.concatenate([np.arange(1, len(rows)), leaf[opened], root])
    edge_depth = np.concatenate([common[1:-1], depth[opened], root])
    edge_parent = np.concatenate([parting, opened + 1, root])
    order = np.lexsort((edge_depth, edge_leaf))
    edge_leaf, edge_depth, edge_parent = edge_leaf[order], edge_depth[order], edge_parent[order]
    above = _edge_above(leaf, depth, parent, branching, edge_leaf, edge_depth)
    same_leaf = np.concatenate([[False], edge_leaf[1:] == edge_leaf[:-1]])
    up = np.where(same_leaf, np.arange(len(order)) - 1, above[edge_parent])
    level = np.zeros(len(order), np.int64)
    for edges in _by_value(edge_depth):
        level[edges] = np.where(up[edges] >= 0, level[up[edges]] + 1, 0)
    leaf_edge = np.searchsorted(edge_leaf, np.arange(len(rows)), side="right") - 1

    by_parent = np.argsort(edge_parent, kind="stable")
    number = np.concatenate([np.argsort(by_parent), [-1]])  # index -1 stays -1
    return TitleTrie(
        node_token=np.concatenate([[0], rows[leaf, depth - 1]]).astype(np.int32),
        node_depth=np.concatenate([[0], depth]).astype(np.int32),
        node_parent=np.concatenate([[-1], parent + 1]).astype(np.int32),
        edge_parent=edge_parent[by_parent].astype(np.int32),
        edge_token=rows[edge_leaf, edge_depth][by_parent].astype(np.int32),
        edge_up=number[up[by_parent]].astype(np.int32),
        edge_level=level[by_parent].astype(np.int32),
        title_edge=number[leaf_edge[leaf_of]].astype(np.int32),
        title_copies=copies[leaf_of].astype(np.int32),
    )


def _distinct(tokens: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct titles as sorted rows int64[r, width], padded with -1; the row of each title, and how many titles a row
    stands for."""
    lengths = np.diff(offsets)
    assert len(lengths) > 0 and lengths.min() > 0
    padded = np.zeros((len(lengths), int(lengths.max()) + 1), ">u4")  # big-endian bytes sort like the numbers
    padded[np.arange(padded.shape[1])[None, :] < lengths[:, None]] = tokens.astype(np.int64) + 1
    keys = padded.view(f"S{4 * padded.shape[1]}").reshape(-1)
    _, first, leaf_of, copies = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return padded[first].astype(np.int64) - 1, leaf_of.reshape(-1), copies


def _by_value(values: np.ndarray) -> list[np.ndarray]:
    """Positions of each distinct value, values ascending."""
    order = np.argsort(values, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(values[order])) + 1)


def _last_of_depth(depth: np.ndarray, wanted: np.ndarray, before: np.ndarray) -> np.ndarray:
    """For each query: the last node below the root, in preorder, with depth `wanted` among the first `before` ones; -1
    (the root) where `wanted` is 0.

    In preorder the last node of depth d - 1 before a node of depth d is its parent.
    """
    last = np.full(len(wanted), -1, np.int64)
    if not len(depth):
        return last
    nodes_of_depth = {int(depth[nodes[0]]): nodes for nodes in _by_value(depth)}
    for queries in _by_value(wanted) if len(wanted) else []:
        level = int(wanted[queries[0]])
        if level:
            nodes = nodes_of_depth[level]
            last[queries] = nodes[np.searchsorted(nodes, before[queries]) - 1]
    return last


def _edge_above(
    leaf: np.ndarray,
    depth: np.ndarray,
    parent: np.ndarray,
    branching: np.ndarray,
    edge_leaf: np.ndarray,
    edge_depth: np.ndarray,
) -> np.ndarray:
    """int64[n + 1], root first: the last edge on the way to each node, its own incoming one included; -1 = none."""
    above = np.full(len(depth) + 1, -1, np.int64)
    if not len(depth):
        return above
    width = int(depth.max()) + 2
    # The edge into a node was opened by the leaf that opened the node.
    into = np.searchsorted(edge_leaf * width + edge_depth, leaf * width + depth - 1)
    for nodes in _by_value(depth):
        above[nodes + 1] = np.where(branching[parent[nodes] + 1], into[nodes], above[parent[nodes] + 1])
    return above
