"""A title trie for a search from the root: what follows each node, and how many titles lie below it."""

from dataclasses import dataclass

import numpy as np

from cprec_jax.inference.trie.trie import TitleTrie


@dataclass(frozen=True, kw_only=True)
class TrieIndex:
    """Nodes, edges and titles are numbered as in `trie`: n nodes, E edges, N titles.

    kids of node v: `kid[kid_first[v]:kid_first[v + 1]]`, its skeleton children. edges of v:
    `edge_first[v]:edge_first[v + 1]`, none where it does not branch (then it has one kid, which a title takes for
    sure). kid_edge int32[kids]: the edge that leads to a kid, -1 where its parent does not branch. leaf bool[E]: the
    edge leads to titles alone; those of leaf e are `title[title_first[e]:title_first[e + 1]]`. below float64[n]: log of
    the number of titles below a node.
    """

    trie: TitleTrie
    kid: np.ndarray
    kid_first: np.ndarray
    kid_edge: np.ndarray
    edge_first: np.ndarray
    leaf: np.ndarray
    title: np.ndarray
    title_first: np.ndarray
    below: np.ndarray


def build_index(trie: TitleTrie) -> TrieIndex:
    """The index of a trie; numpy on whole columns, as `build_trie`."""
    n = trie.nodes + 1
    parent = trie.node_parent.astype(np.int64)
    kid = 1 + np.argsort(parent[1:], kind="stable")
    edge_first = np.searchsorted(trie.edge_parent, np.arange(n + 1))
    kid_edge = np.full(trie.nodes, -1, np.int64)
    if trie.nodes:
        width = int(max(trie.edge_token.max(), trie.node_token.max())) + 1
        keys = trie.edge_parent.astype(np.int64) * width + trie.edge_token
        order = np.argsort(keys)
        wanted = parent[kid] * width + trie.node_token[kid]
        edge = order[np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1)]
        kid_edge = np.where(keys[edge] == wanted, edge, -1)
    leaf = np.ones(trie.edges, bool)
    leaf[kid_edge[kid_edge >= 0]] = False
    titles = np.zeros(n)
    np.add.at(titles, trie.edge_parent[trie.title_edge[trie.title_edge >= 0]], 1)
    for depth in range(int(trie.node_depth.max(initial=0)), 0, -1):
        nodes = np.flatnonzero(trie.node_depth == depth)
        np.add.at(titles, parent[nodes], titles[nodes])
    by_edge = np.argsort(trie.title_edge, kind="stable")
    return TrieIndex(
        trie=trie,
        kid=kid,
        kid_first=np.searchsorted(parent[kid], np.arange(n + 1)),
        kid_edge=kid_edge,
        edge_first=edge_first,
        leaf=leaf,
        title=by_edge,
        title_first=np.searchsorted(trie.title_edge[by_edge], np.arange(trie.edges + 1)),
        below=np.log(np.maximum(titles, 1)),
    )


def spans(first: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which of `nodes`, index) of everything that belongs to them, where v owns first[v]:first[v + 1]."""
    count = first[nodes + 1] - first[nodes]
    owner = np.repeat(np.arange(len(nodes)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + first[nodes][owner]
