"""The title trie of a catalogue: which prefixes need a forward pass, and how titles' probabilities follow from their edges.

Under the `trie` rule every step is renormalised over the children that exist, so a forced token has probability 1 and needs no forward
pass. Only the SKELETON is evaluated: the branching nodes and their ancestors. The root is the end of the prompt.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class TitleTrie:
    """Static arrays of one catalogue; n skeleton nodes below the root, E edges below branching nodes, N titles.

    Nodes are ordered by depth (children of the root first). Edges are ordered by the node they leave (`edge_parent`, ascending, 0 = root,
    node j = j + 1), so siblings are neighbours.

    node_token int32[n], node_depth int32[n] (1 = child of the root), node_parent int32[n] (-1 = root).
    edge_parent int32[E], edge_token int32[E], edge_up int32[E] (the edge before it on the way to the root, -1 = none),
    edge_level int32[E] (how many edges are above it).
    title_edge int32[N] (the last edge on a title's way; -1 in a catalogue of one title), title_copies int32[N] (how many titles
    tokenise just like it, itself included: they share a leaf and its probability).
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
        return len(self.node_token)

    @property
    def edges(self) -> int:
        return len(self.edge_token)

    def ancestors(self, first: int, last: int) -> np.ndarray:
        """int32[last - first, depth of node last - 1]: node ids on the way from the root to each node, itself included; padded with -1."""
        width = int(self.node_depth[last - 1]) if last > first else 0
        out = np.full((last - first, width), -1, np.int32)
        at = np.arange(first, last)
        depth = self.node_depth[first:last]
        for step in range(width):
            alive = depth - 1 - step >= 0
            out[alive, (depth - 1 - step)[alive]] = at[alive]
            at = np.where(alive, self.node_parent[np.maximum(at, 0)], -1)
        return out

    def log_probs(self, edge_logits: np.ndarray) -> np.ndarray:
        """Reference in numpy: log-probability of every title, float64[N], from the logit of every edge, float[E]."""
        logits = edge_logits.astype(np.float64)
        top = np.full(self.nodes + 1, -np.inf)
        np.maximum.at(top, self.edge_parent, logits)
        total = np.zeros(self.nodes + 1)
        np.add.at(total, self.edge_parent, np.exp(logits - top[self.edge_parent]))
        edge = logits - top[self.edge_parent] - np.log(total[self.edge_parent])
        for level in range(1, int(self.edge_level.max(initial=0)) + 1):
            at = np.flatnonzero(self.edge_level == level)
            edge[at] += edge[self.edge_up[at]]
        path = np.where(self.title_edge >= 0, edge[np.maximum(self.title_edge, 0)] if len(edge) else 0.0, 0.0)
        return path - np.log(self.title_copies)


def build_trie(tokens: np.ndarray, offsets: np.ndarray) -> TitleTrie:
    """Build the trie of titles `tokens[offsets[i]:offsets[i + 1]]`; no title may be a strict prefix of another (`Catalogue` sees to it)."""
    n_titles = len(offsets) - 1
    assert n_titles > 0
    lengths = np.diff(offsets)
    padded = np.full((n_titles, int(lengths.max()) + 1), -1, np.int64)
    padded[np.arange(padded.shape[1])[None, :] < lengths[:, None]] = tokens
    rows, leaf_of, copies = np.unique(padded, axis=0, return_inverse=True, return_counts=True)
    # Length of the common prefix of each sorted leaf with the one before it; sentinels of 0 at both ends.
    common = np.zeros(len(rows) + 1, np.int64)
    common[1:-1] = np.argmax(rows[1:] != rows[:-1], axis=1)

    token, depth, parent, new_nodes = _skeleton(rows, common)
    branching = _branching(common, new_nodes, len(token))
    edges, leaf_edge = _edges(rows, common, new_nodes, branching)
    return _ordered(token, depth, parent, edges, leaf_edge[leaf_of.reshape(-1)], copies[leaf_of.reshape(-1)])


def _skeleton(rows: np.ndarray, common: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nodes in the order of their first leaf: token, depth, parent (-1 = root), and where each leaf's own nodes begin, int64[leaves + 1].

    Leaf r opens the nodes at depths common[r] + 1 .. common[r + 1]: those it shares with the next leaf but not with the one before.
    """
    count = np.maximum(common[1:] - common[:-1], 0)
    new_nodes = np.concatenate([[0], np.cumsum(count)])
    leaf = np.repeat(np.arange(len(rows)), count)
    depth = common[leaf] + 1 + np.arange(len(leaf)) - new_nodes[leaf]
    parent = np.empty(len(leaf), np.int64)
    path: list[int] = [-1]
    for row in range(len(rows)):
        del path[common[row] + 1 :]
        for node in range(new_nodes[row], new_nodes[row + 1]):
            parent[node] = path[-1]
            path.append(node)
    return rows[leaf, depth - 1], depth, parent, new_nodes


def _branching(common: np.ndarray, new_nodes: np.ndarray, n_nodes: int) -> np.ndarray:
    """bool[nodes + 1], root first: two neighbouring leaves part there."""
    branching = np.zeros(n_nodes + 1, bool)
    path = [0]
    for row in range(len(common) - 1):
        del path[common[row] + 1 :]
        if row:
            branching[path[-1]] = True
        path.extend(range(new_nodes[row] + 1, new_nodes[row + 1] + 1))
    return branching


def _edges(rows: np.ndarray, common: np.ndarray, new_nodes: np.ndarray, branching: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64[E, 4] (parent with 0 = root, token, edge above, level) and the last edge of each leaf (-1 = none)."""
    edges: list[tuple[int, int, int, int]] = []
    leaf_edge = np.full(len(rows), -1, np.int64)
    path, above = [0], [-1]  # the leaf's nodes, and the last edge above each
    for row in range(len(rows)):
        shared = int(common[row])
        del path[shared + 1 :], above[shared + 1 :]
        path.extend(range(new_nodes[row] + 1, new_nodes[row + 1] + 1))
        up = above[shared]
        for depth in range(shared, len(path)):
            if depth > shared:
                above.append(up)
            if branching[path[depth]]:
                edges.append((path[depth], int(rows[row, depth]), up, edges[up][3] + 1 if up >= 0 else 0))
                up = len(edges) - 1
        leaf_edge[row] = up
    return np.asarray(edges, np.int64).reshape(-1, 4), leaf_edge


def _ordered(
    token: np.ndarray, depth: np.ndarray, parent: np.ndarray, edges: np.ndarray, title_edge: np.ndarray, copies: np.ndarray
) -> TitleTrie:
    """Renumber: nodes by depth, edges by the node they leave."""
    order = np.argsort(depth, kind="stable")
    number = np.concatenate([[0], np.argsort(order) + 1])  # old id + 1 -> new id + 1, the root stays 0
    edge_parent = number[edges[:, 0]]
    edge_order = np.argsort(edge_parent, kind="stable")
    edge_number = np.concatenate([np.argsort(edge_order), [-1]])  # index -1 stays -1
    edges = edges[edge_order]
    return TitleTrie(
        node_token=token[order].astype(np.int32),
        node_depth=depth[order].astype(np.int32),
        node_parent=(number[parent[order] + 1] - 1).astype(np.int32),
        edge_parent=edge_parent[edge_order].astype(np.int32),
        edge_token=edges[:, 1].astype(np.int32),
        edge_up=edge_number[edges[:, 2]].astype(np.int32),
        edge_level=edges[:, 3].astype(np.int32),
        title_edge=edge_number[title_edge].astype(np.int32),
        title_copies=copies.astype(np.int32),
    )
