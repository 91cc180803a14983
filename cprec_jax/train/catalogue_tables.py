"""The tables of the catalogue loss: each title's decisions, wide or narrow.

A DECISION is a branching node of the title trie on a title's path: the model decides among the node's children. A node
with one child needs no decision. Wide nodes (the first branching node of each trie, and all with many children) share
one list of tokens, whose rows of the head are gathered once per step. The children of narrow nodes are columns of each
row.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cprec_jax.errors import UserError
from cprec_jax.inference.trie.trie import TitleTrie, build_trie
from cprec_jax.text.catalogue import Catalogue

NARROW = 64  # a node with more children is wide


@dataclass(frozen=True, kw_only=True, eq=False)
class CatalogueTables:
    """The decisions of one or several sets.

    N items of the corpus, S decisions on their titles' paths, A wide nodes, U tokens below them, E edges.

    union int32[U]: the tokens below wide nodes, ascending.
    allowed bool[A, U]: which of them are children of a wide node.
    is_first bool[A]: whether the node is the first branching node of a trie.
    edge_token int32[E]: tokens of the children of all nodes, siblings next to each other.
    item_length int64[N]: tokens per item.
    item_steps int64[N + 1]: item i has the decisions item_steps[i]:item_steps[i + 1], in the order of its tokens.
    item_set int32[N]: the number of its set; -1: in none.
    log_copies float64[N]: log of how many titles of the set have the same tokens, itself included.
    step_depth int32[S]: tokens of the title before the decision.
    step_node int32[S]: the wide node; -1: the node is narrow.
    step_first, step_count int32[S]: the node's children are edge_token[first:first + count].
    step_target int32[S]: the title's child, an index into `union` (wide) or into the node's children (narrow).
    """

    union: np.ndarray
    allowed: np.ndarray
    is_first: np.ndarray
    edge_token: np.ndarray
    item_length: np.ndarray
    item_steps: np.ndarray
    item_set: np.ndarray
    log_copies: np.ndarray
    step_depth: np.ndarray
    step_node: np.ndarray
    step_first: np.ndarray
    step_count: np.ndarray
    step_target: np.ndarray


def build_tables(catalogue: Catalogue, sets: Mapping[str, np.ndarray], narrow: int = NARROW) -> CatalogueTables:
    """The tables of the WHOLE catalogues of some sets.

    Args:
      catalogue: the tokens of all items of the corpus.
      sets: name -> its items, int[n] ascending; no item is in two sets.
      narrow: the most children of a narrow node.

    Raises `UserError` for a set with one title, or whose titles all have the same tokens.
    """
    tries = [_trie_of(name, items, catalogue) for name, items in sets.items()]
    node_first, node_count, is_first = _branching_nodes(tries)
    edge_token = np.concatenate([trie.edge_token for trie in tries])
    wide = np.flatnonzero(is_first | (node_count > narrow))
    number = np.full(len(node_first), -1, np.int32)
    number[wide] = np.arange(len(wide))
    node_of_edge = np.repeat(np.arange(len(node_first)), node_count)
    wide_edges = np.flatnonzero(number[node_of_edge] >= 0)
    union, column = np.unique(edge_token[wide_edges], return_inverse=True)
    allowed = np.zeros((len(wide), len(union)), bool)
    allowed[number[node_of_edge[wide_edges]], column.reshape(-1)] = True

    items, depth, edge = _steps(tries, list(sets.values()))
    node = node_of_edge[edge]
    within = edge - node_first[node]
    is_wide = number[node] >= 0
    item_set = np.full(len(catalogue), -1, np.int32)
    log_copies = np.zeros(len(catalogue))
    for index, (trie, set_items) in enumerate(zip(tries, sets.values(), strict=True)):
        assert (item_set[set_items] < 0).all(), "an item of two sets"
        item_set[set_items], log_copies[set_items] = index, np.log(trie.title_copies)
    return CatalogueTables(
        union=union.astype(np.int32),
        allowed=allowed,
        is_first=is_first[wide],
        edge_token=edge_token,
        item_length=catalogue.lengths,
        item_steps=np.searchsorted(items, np.arange(len(catalogue) + 1)),
        item_set=item_set,
        log_copies=log_copies,
        step_depth=depth.astype(np.int32),
        step_node=number[node],
        step_first=node_first[node].astype(np.int32),
        step_count=node_count[node].astype(np.int32),
        step_target=np.where(is_wide, np.searchsorted(union, edge_token[edge]), within).astype(np.int32),
    )


def _trie_of(name: str, items: np.ndarray, catalogue: Catalogue) -> TitleTrie:
    trie = build_trie(*catalogue.gather(items)) if len(items) > 1 else None
    if trie is None or not trie.edges:
        what = "has a catalogue of one title" if trie is None else f"has {len(items)} titles with the same tokens"
        raise UserError(
            f"set {name} {what}: the objective 'catalogue' has nothing to choose from; leave the set out, or take the "
            "language-model loss"
        )
    return trie


def _branching_nodes(tries: list[TitleTrie]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the branching nodes of all tries, in the order of their edges: first edge, number of children, and whether
    the node is the first branching node of its trie."""
    first, count, is_first, edges = [], [], [], 0
    for trie in tries:
        _, begin, children = np.unique(trie.edge_parent, return_index=True, return_counts=True)
        first.append(begin + edges)
        count.append(children)
        is_first.append(trie.edge_up[begin] < 0)
        edges += trie.edges
    return np.concatenate(first), np.concatenate(count), np.concatenate(is_first)


def _steps(tries: list[TitleTrie], sets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(item, tokens before the decision, edge) of every decision on every title's path, ordered by item and tokens."""
    items, depths, edges, offset = [], [], [], 0
    for trie, items_of_set in zip(tries, sets, strict=True):
        ways = trie.ways(np.arange(len(items_of_set)))
        title, level = np.nonzero(ways >= 0)
        edge = ways[title, level]
        items.append(items_of_set[title])
        depths.append(trie.node_depth[trie.edge_parent[edge]])
        edges.append(edge + offset)
        offset += trie.edges
    item, before, edge = np.concatenate(items), np.concatenate(depths), np.concatenate(edges)
    order = np.lexsort((before, item))
    return item[order], before[order], edge[order]
