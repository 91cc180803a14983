"""A title trie as a search wants it: what follows each node, and how many titles lie below."""

from dataclasses import dataclass

import numpy as np

from cprec_jax.inference.trie.trie import TitleTrie


@dataclass(frozen=True, kw_only=True)
class TrieIndex:
    """Nodes are numbered with the root as 0, skeleton node j as j + 1; n of them, E edges, N titles.

    token, depth int32[n] (the root has depth 0). kids of node v: `kid[kid_first[v]:kid_first[v + 1]]`, its skeleton
    children. edges of v: `edge_first[v]:edge_first[v + 1]`, none where it does not branch (then it has one kid, which a
    title takes for sure). kid_edge int32[kids]: the edge that leads to a kid, -1 where its parent does not branch. leaf
    bool[E]: the edge leads to titles alone; those of leaf e are `title[title_first[e]:title_first[e + 1]]`. below
    float64[n]: log of the number of titles below a node.
    """

    trie: TitleTrie
    token: np.ndarray
    depth: np.ndarray
    kid: np.ndarray
    kid_first: np.ndarray
    kid_edge: np.ndarray
    edge_first: np.ndarray
    leaf: np.ndarray
    title: np.ndarray
    title_first: np.ndarray
    below: np.ndarray


def build_index(trie: TitleTrie) -> TrieIndex:
    n = trie.nodes + 1
    parent = trie.node_parent.astype(np.int64) + 1
    kid = np.argsort(parent, kind="stable")
    edge_first = np.searchsorted(trie.edge_parent, np.arange(n + 1))
    kid_edge = np.full(trie.nodes, -1, np.int64)
    if trie.nodes:
        width = int(max(trie.edge_token.max(), trie.node_token.max())) + 1
        keys = trie.edge_parent.astype(np.int64) * width + trie.edge_token
        order = np.argsort(keys)
        wanted = parent[kid] * width + trie.node_token[kid]
        at = order[np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1)]
        kid_edge = np.where(keys[at] == wanted, at, -1)
    leaf = np.ones(trie.edges, bool)
    leaf[kid_edge[kid_edge >= 0]] = False
    titles = np.zeros(n)
    np.add.at(titles, trie.edge_parent[trie.title_edge[trie.title_edge >= 0]], 1)
    for depth in range(int(trie.node_depth.max(initial=0)), 0, -1):
        at = np.flatnonzero(trie.node_depth == depth)
        np.add.at(titles, parent[at], titles[at + 1])
    by_edge = np.argsort(trie.title_edge, kind="stable")
    return TrieIndex(
        trie=trie,
        token=np.concatenate([[0], trie.node_token]).astype(np.int32),
        depth=np.concatenate([[0], trie.node_depth]).astype(np.int32),
        kid=kid + 1,
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
