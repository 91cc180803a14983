"""The skeleton of a trie cut into groups of bounded size, so that the memory of one forward pass does not grow with the catalogue."""

from dataclasses import dataclass

import numpy as np

from cprec_jax.evaluate.title_trie import TitleTrie

# A bucket holds the nodes with at most so many ancestors, so that little of the padded lists of ancestors is padding.
BUCKETS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024, 2048, 4096])
RUN = 128  # nodes dealt together: fewer even the groups out better, more need fewer ancestors twice


@dataclass(frozen=True, kw_only=True)
class SkeletonGroups:
    """G groups of M slots; a slot is a node, or padding. Slots are sorted into depth buckets, alike in every group: shapes are static.

    token, depth: int32[G, M] (padding: 0 and 1). ancestors: for each bucket int32[G, slots, A], the slots on the way from the root, the
    node's own included, -1 = none. edge_slot, edge_token: int32[G, edges], the edges that leave a group's nodes. edge_place int32[E]:
    where each edge below the root is found when groups x edges are flattened; in the order of the trie's edges.
    """

    token: np.ndarray
    depth: np.ndarray
    ancestors: tuple[np.ndarray, ...]
    edge_slot: np.ndarray
    edge_token: np.ndarray
    edge_place: np.ndarray


def group_skeleton(trie: TitleTrie, chunk: int) -> SkeletonGroups:
    """Deal the nodes to groups of about `chunk`; a group also gets what ancestors of its nodes it lacks.

    The preorder is cut into runs. A run lacks only the ancestors of its first node (an ancestor of a later node that comes before the run
    is an ancestor of the first one, too). Runs are dealt by their mean depth, so that the groups need like numbers of slots a bucket.
    """
    assert trie.nodes > 0
    n_groups = -(-trie.nodes // chunk)
    group_of = _deal(trie, n_groups)
    members = [_with_ancestors(trie, np.flatnonzero(group_of == group)) for group in range(n_groups)]
    bucket_of = np.searchsorted(BUCKETS, trie.node_depth)
    sizes = np.stack([np.bincount(bucket_of[m], minlength=len(BUCKETS)) for m in members]).max(axis=0)
    first_slot = np.concatenate([[0], np.cumsum(sizes)])

    token = np.zeros((n_groups, first_slot[-1]), np.int32)
    depth = np.ones_like(token)
    deepest = int(trie.node_depth.max())
    ancestors = [np.full((n_groups, size, min(int(b), deepest)), -1, np.int32) for size, b in zip(sizes, BUCKETS, strict=True)]
    own_slot = np.zeros(trie.nodes, np.int64)
    for group, nodes in enumerate(members):
        nodes = nodes[np.argsort(bucket_of[nodes], kind="stable")]
        bucket = bucket_of[nodes]
        slot = first_slot[bucket] + np.arange(len(nodes)) - np.searchsorted(bucket, bucket)
        token[group, slot], depth[group, slot] = trie.node_token[nodes], trie.node_depth[nodes]
        slot_of = np.full(trie.nodes, -1, np.int64)
        slot_of[nodes] = slot
        own = group_of[nodes] == group
        own_slot[nodes[own]] = slot[own]
        for b in np.unique(bucket):
            here = bucket == b
            at, row = nodes[here], slot[here] - first_slot[b]
            while len(at):
                ancestors[b][group, row, trie.node_depth[at] - 1] = slot_of[at]
                at = trie.node_parent[at]
                at, row = at[at >= 0], row[at >= 0]
    edge_slot, edge_token, edge_place = _edges(trie, n_groups, group_of, own_slot)
    return SkeletonGroups(
        token=token,
        depth=depth,
        ancestors=tuple(block for block in ancestors if block.shape[1]),
        edge_slot=edge_slot,
        edge_token=edge_token,
        edge_place=edge_place,
    )


def _deal(trie: TitleTrie, n_groups: int) -> np.ndarray:
    """The group of every node, int64[n]."""
    n_runs = n_groups * max(1, trie.nodes // n_groups // RUN) if n_groups > 1 else 1
    run_of = np.arange(trie.nodes) * n_runs // trie.nodes
    depths = np.bincount(run_of, trie.node_depth) / np.bincount(run_of)
    turn = np.arange(n_runs) % (2 * n_groups)
    group_of_run = np.empty(n_runs, np.int64)
    group_of_run[np.argsort(depths, kind="stable")] = np.minimum(turn, 2 * n_groups - 1 - turn)  # 0 1 2 2 1 0 0 1 2 ...
    return group_of_run[run_of]


def _with_ancestors(trie: TitleTrie, nodes: np.ndarray) -> np.ndarray:
    """`nodes` and all their ancestors below the root, ascending."""
    found = np.zeros(trie.nodes, bool)
    while len(nodes):
        found[nodes] = True
        nodes = np.unique(trie.node_parent[nodes])
        nodes = nodes[nodes >= 0]
        nodes = nodes[~found[nodes]]
    return np.flatnonzero(found)


def _edges(trie: TitleTrie, n_groups: int, group_of: np.ndarray, own_slot: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    below = np.flatnonzero(trie.edge_parent > 0)
    node = trie.edge_parent[below] - 1
    group = group_of[node]
    order = np.argsort(group, kind="stable")
    column = np.empty(len(below), np.int64)
    column[order] = np.arange(len(below)) - np.searchsorted(group[order], group[order])
    width = int(column.max()) + 1
    edge_slot, edge_token = np.zeros((2, n_groups, width), np.int32)
    edge_slot[group, column], edge_token[group, column] = own_slot[node], trie.edge_token[below]
    return edge_slot, edge_token, (group * width + column).astype(np.int32)
