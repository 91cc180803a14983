"""The best titles of each user without scoring all: branch and bound over the title trie (exact), or a beam (fast,
approximate).

Under the `trie` rule a node's probability is that of all titles below it together, so a subtree whose probability is
below that of the K-th best title cannot hold one of the best K. The bound is known early: below a node of probability p
with k titles there is one with at least p / k. On trained models the best 100 of 16,000 titles take about a tenth of
the skeleton.

The search goes level by level (all nodes of a level have the same depth). Keys and values of what was visited stay on
the device, in a pool that a node's descendants gather theirs from. Rows go in blocks of one user.

U users, P prompt length, S places in the pool, A ancestors; b blocks of R rows; H, K, G, h as in `prompt_cache`.
"""

from dataclasses import dataclass, field
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.errors import UserError
from cprec_jax.inference.prompt_cache import PromptCache, attend_prompt
from cprec_jax.inference.trie.exact import root_edge_logits
from cprec_jax.inference.trie.index import TrieIndex, spans
from cprec_jax.model.decoder import Decoder, head_weight
from cprec_jax.model.partial_attention import attend_keys, by_head, by_position, join_rows, merge

BLOCK, FEW = 16, 4  # rows of a block; of one where no user has more (deep levels, whose ancestors are many)
BLOCKS = 32  # of a call, or half of it where that is enough
ANCESTORS = (4, 16, 32, 64, 256, 1024, 4096)  # few widths: each is compiled once
EDGES = 2048  # are scored at a time, or a power of two times as many
UNKNOWN = -1e9  # the score of titles that are not among the best, in the dense result


@flax.struct.dataclass
class Pool:
    """Keys and values of visited nodes, [L, S, K, h]."""

    keys: jax.Array
    values: jax.Array


@flax.struct.dataclass
class _Nodes:
    """Nodes of one depth that are visited in one call: token int32[b, R], the user of each block int32[b], depth int32,
    and where the ancestors lie in the pool, path int32[b, R, A], -1 = none."""

    token: Any
    user: Any
    depth: Any
    path: Any


@dataclass(frozen=True, kw_only=True)
class BestTitles:
    """log_probs float64[U, N], `UNKNOWN` where a title is neither among a user's best nor wanted. bound float64[U]:
    nothing unknown is above it (with a beam: nothing that was kept). nodes: how many were visited, all users
    together."""

    log_probs: np.ndarray
    bound: np.ndarray
    nodes: int


@dataclass(kw_only=True)
class _Frontier:
    """Nodes of one level, sorted by user: user, node, log-probability, and where their ancestors lie in the pool
    int64[f, depth - 1]."""

    user: np.ndarray
    node: np.ndarray
    log_prob: np.ndarray
    path: np.ndarray

    def take(self, rows: np.ndarray) -> "_Frontier":
        return _Frontier(user=self.user[rows], node=self.node[rows], log_prob=self.log_prob[rows], path=self.path[rows])


@dataclass(kw_only=True)
class _Leaves:
    """Leaf edges that were reached."""

    user: list[np.ndarray] = field(default_factory=list)
    edge: list[np.ndarray] = field(default_factory=list)
    log_prob: list[np.ndarray] = field(default_factory=list)


def search(
    decoder: Decoder,
    params: Any,
    index: TrieIndex,
    cache: PromptCache,
    wanted_UC: np.ndarray,
    best_U: np.ndarray,
    beam: int | None = None,
    temperature: float = 1.0,
) -> BestTitles:
    """The `best_U` best titles of each user and the titles `wanted_UC`, whatever their probability.

    Args:
      cache: of `encode_prompts(..., from_end=True)`. wanted_UC: titles (their numbers in the trie), int64[U, C].
      beam: visit only so many nodes per user and level (beside those on the way to wanted titles): deterministic, not
        exact.
    """
    users = len(best_U)
    trie = index.trie
    if not trie.edges:  # all titles are one
        return BestTitles(
            log_probs=np.tile(-np.log(trie.title_copies.astype(np.float64)), (users, 1)),
            bound=np.full(users, -np.inf),
            nodes=0,
        )
    keep_node, keep_edge = _ways(index, wanted_UC)
    leaves = _Leaves()
    pool = _Rows(decoder, params, cache, int(best_U.sum()) * 16)
    root_logits = _root(decoder, params, trie.edge_token[: index.edge_first[1]], cache)[:users]
    start = _Frontier(
        user=np.arange(users),
        node=np.zeros(users, np.int64),
        log_prob=np.zeros(users),
        path=np.zeros((users, 0), np.int64),
    )
    frontier = _expand(index, start, root_logits.reshape(-1), temperature, leaves)
    bound = np.full(users, -np.inf)
    visited = 0
    while True:
        bound = _bound(index, frontier, leaves, best_U, bound, exact=beam is None)
        kept = keep_node[frontier.user, frontier.node]
        frontier = frontier.take(np.flatnonzero(_chosen(frontier, bound, beam) | kept))
        _drop(leaves, bound, keep_edge)
        if not len(frontier.node):
            break
        visited += len(frontier.node)
        frontier, logits = pool.visit(index, frontier)
        frontier = _expand(index, frontier, logits, temperature, leaves)
    return BestTitles(log_probs=_dense(index, leaves, users), bound=bound, nodes=visited)


def _ways(index: TrieIndex, wanted_UC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool[U, n], bool[U, E]: the nodes on the ways of the wanted titles, and their last edges."""
    trie, users = index.trie, len(wanted_UC)
    nodes, edges = np.zeros((users, trie.nodes + 1), bool), np.zeros((users, trie.edges), bool)
    user = np.repeat(np.arange(users), wanted_UC.shape[1])
    edge = trie.title_edge[wanted_UC.reshape(-1)]
    edges[user, edge] = True
    node = trie.edge_parent[edge]
    while len(node):
        nodes[user, node] = True
        user, node = user[node > 0], trie.node_parent[node[node > 0]]
    return nodes, edges


def _expand(
    index: TrieIndex, frontier: _Frontier, logits: np.ndarray, temperature: float, leaves: _Leaves
) -> _Frontier:
    """The next level: children of visited nodes. logits: of the edges of all nodes of `frontier`, one after the other.
    One that is not finite is a `UserError`: NaN is below every bound, so its titles would be left out in silence."""
    if not np.isfinite(logits).all():
        raise UserError(
            f"the model gives a title the logit {logits[~np.isfinite(logits)][0]}; its parameters must give finite "
            "scores"
        )
    owner, edge = spans(index.edge_first, frontier.node)
    log_prob = np.zeros(0)
    first = np.zeros(len(frontier.node), np.int64)
    if len(edge):
        count = index.edge_first[frontier.node + 1] - index.edge_first[frontier.node]
        first = np.cumsum(count) - count
        branching = np.flatnonzero(count)
        scaled = logits.astype(np.float64) / temperature
        total = np.logaddexp.reduceat(scaled, first[branching])
        log_prob = scaled - np.repeat(total, count[branching]) + frontier.log_prob[owner]
        leaf = index.leaf[edge]
        leaves.user.append(frontier.user[owner[leaf]])
        leaves.edge.append(edge[leaf])
        leaves.log_prob.append(
            log_prob[leaf] - np.log(index.trie.title_copies[index.title[index.title_first[edge[leaf]]]])
        )
    owner, kid = spans(index.kid_first, frontier.node)
    into = index.kid_edge[kid]
    kid_log_prob = frontier.log_prob[owner]
    if len(log_prob):
        position = np.minimum(
            np.maximum(first[owner] + into - index.edge_first[frontier.node[owner]], 0), len(log_prob) - 1
        )
        kid_log_prob = np.where(into >= 0, log_prob[position], kid_log_prob)
    return _Frontier(user=frontier.user[owner], node=index.kid[kid], log_prob=kid_log_prob, path=frontier.path[owner])


def _bound(
    index: TrieIndex, frontier: _Frontier, leaves: _Leaves, best_U: np.ndarray, bound: np.ndarray, exact: bool
) -> np.ndarray:
    """A lower bound of the K-th best title of each user: from the titles that were reached, and (exact) one title below
    each node not visited yet."""
    user = np.concatenate([*leaves.user, frontier.user if exact else frontier.user[:0]])
    value = np.concatenate(
        [
            *leaves.log_prob,
            (frontier.log_prob - index.below[frontier.node])[: len(user)] if exact else frontier.log_prob[:0],
        ]
    )
    order = np.lexsort((-value, user))
    user, value = user[order], value[order]
    first = np.searchsorted(user, np.arange(len(best_U)))
    last = first + best_U - 1
    enough = last < np.searchsorted(user, np.arange(len(best_U)), side="right")
    kth_best = np.full(len(best_U), -np.inf)
    kth_best[enough] = value[last[enough]]
    return np.maximum(bound, kth_best)


def _chosen(frontier: _Frontier, bound: np.ndarray, beam: int | None) -> np.ndarray:
    """bool[f]: what may lead to one of the best; with a beam, the best of those."""
    # rounding must not lose a title that is equal to the bound
    chosen = frontier.log_prob >= bound[frontier.user] - 1e-9
    if beam is not None:
        order = np.lexsort((frontier.node, -frontier.log_prob, frontier.user))
        user = frontier.user[order]
        rank = np.arange(len(order)) - np.searchsorted(user, user)
        chosen[order[rank >= beam]] = False
    return chosen


def _drop(leaves: _Leaves, bound: np.ndarray, keep_edge: np.ndarray) -> None:
    """Forget titles that are neither among the best nor wanted."""
    if not leaves.user:
        return
    user, edge, log_prob = np.concatenate(leaves.user), np.concatenate(leaves.edge), np.concatenate(leaves.log_prob)
    good = (log_prob >= bound[user] - 1e-9) | keep_edge[user, edge]
    leaves.user, leaves.edge, leaves.log_prob = [user[good]], [edge[good]], [log_prob[good]]


def _dense(index: TrieIndex, leaves: _Leaves, users: int) -> np.ndarray:
    N = len(index.trie.title_edge)
    scores = np.full((users, N), UNKNOWN)
    owner, position = spans(index.title_first, np.concatenate(leaves.edge))
    scores[np.concatenate(leaves.user)[owner], index.title[position]] = np.concatenate(leaves.log_prob)[owner]
    return scores


class _Rows:
    """Visits nodes: a fixed number of blocks of rows per call, whose keys and values go into the pool."""

    def __init__(self, decoder: Decoder, params: Any, cache: PromptCache, expected: int):
        """`expected`: how many rows are likely to be visited; where it is more, the pool grows (and is compiled
        again)."""
        self._decoder, self._params, self._cache = decoder.clone(attend=_pool_attend), params, cache
        size = max(4 * BLOCK * BLOCKS, 1 << (expected - 1).bit_length())
        shape = (cache.keys.shape[0], size, *cache.keys.shape[3:])
        self._pool = Pool(keys=jnp.zeros(shape, cache.keys.dtype), values=jnp.zeros(shape, cache.values.dtype))
        self._used = 0

    def visit(self, index: TrieIndex, frontier: _Frontier) -> tuple[_Frontier, np.ndarray]:
        """The frontier with its nodes at the end of their paths, and the logits of the edges that leave them."""
        depth = frontier.path.shape[1] + 1
        _, owner, count = np.unique(frontier.user, return_inverse=True, return_counts=True)
        inside = np.arange(len(owner)) - np.searchsorted(owner, owner)
        rows = FEW if count.max() <= FEW else BLOCK
        blocks_of = -(-count // rows)
        block = (np.cumsum(blocks_of) - blocks_of)[owner] + inside // rows
        row = block * rows + inside % rows
        size = BLOCKS if blocks_of.sum() > BLOCKS // 2 else BLOCKS // 2
        total = -(-int(blocks_of.sum()) // size) * size
        width = next(a for a in ANCESTORS if a >= depth - 1)
        token = np.zeros(total * rows, np.int32)
        path = np.full((total * rows, width), -1, np.int32)
        user = np.zeros(total, np.int32)
        token[row], path[row, : depth - 1], user[block] = (
            index.trie.node_token[frontier.node],
            frontier.path,
            frontier.user,
        )
        in_pool = self._used + row
        states = []
        for first in range(0, total, size):
            self._make_room(size * rows)
            call = slice(first * rows, (first + size) * rows)
            shape = (size, rows)
            nodes = _Nodes(
                token=token[call].reshape(shape),
                user=user[first : first + size],
                depth=np.int32(depth),
                path=path[call].reshape(*shape, width),
            )
            x, self._pool = _visit(self._decoder, self._params, self._cache, self._pool, nodes, np.int32(self._used))
            states.append(x)
            self._used += rows * size
        visited = _Frontier(
            user=frontier.user,
            node=frontier.node,
            log_prob=frontier.log_prob,
            path=np.concatenate([frontier.path, in_pool[:, None]], axis=1),
        )
        return visited, self._edges(index, frontier.node, row, states, size * rows)

    def _make_room(self, rows: int) -> None:
        size = self._pool.keys.shape[1]
        if self._used + rows > size:
            self._pool = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, size), (0, 0), (0, 0))), self._pool)

    def _edges(
        self, index: TrieIndex, node: np.ndarray, row: np.ndarray, states: list[jax.Array], rows: int
    ) -> np.ndarray:
        owner, edge = spans(index.edge_first, node)
        logits = np.zeros(len(edge), np.float32)
        call = row[owner] // rows
        for number, x_RD in enumerate(states):
            of_call = np.flatnonzero(call == number)
            size = EDGES
            while size < len(of_call):
                size *= 2
            row_E, token_E = np.zeros((2, size), np.int32)
            row_E[: len(of_call)] = row[owner[of_call]] % rows
            token_E[: len(of_call)] = index.trie.edge_token[edge[of_call]]
            if len(of_call):
                scored = np.asarray(_score(self._decoder, self._params, x_RD, row_E, token_E))
                logits[of_call] = scored[: len(of_call)]
        return logits


def _pool_attend(
    q_bRHh: jax.Array,
    k_bRKh: jax.Array,
    v_bRKh: jax.Array,
    past: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    context: tuple[jax.Array, jax.Array, jax.Array],
    window: int | jax.Array | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """A row attends to its user's prompt, its ancestors and itself, in one softmax."""
    keys_bPKh, values_bPKh, keys_bRAKh, values_bRAKh = past
    length_b, depth, visible_bRA = context
    (b, R, H, h), K, A = q_bRHh.shape, k_bRKh.shape[2], visible_bRA.shape[2]
    after_bR = jnp.broadcast_to(depth - 1, (b, R))
    on_prompt = attend_prompt(by_head(q_bRHh, K), keys_bPKh, values_bPKh, length_b, after_bR, window, softcap)
    if window is not None:
        visible_bRA &= depth - 1 - jnp.arange(A) < window
    # each row is alone with its ancestors and itself
    rows = lambda x: x.reshape(b * R, -1, *x.shape[-2:])  # noqa: E731
    k = jnp.concatenate([rows(keys_bRAKh), rows(k_bRKh)], axis=1)
    v = jnp.concatenate([rows(values_bRAKh), rows(v_bRKh)], axis=1)
    visible = jnp.concatenate([visible_bRA, jnp.ones((b, R, 1), bool)], axis=2).reshape(b * R, 1, A + 1)
    on_path = join_rows(attend_keys(by_head(q_bRHh.reshape(b * R, 1, H, h), K), k, v, visible, softcap), b)
    return by_position(merge(on_prompt, on_path)).astype(v_bRKh.dtype)


def _visit_rows(
    decoder: Decoder, params: Any, cache: PromptCache, pool: Pool, nodes: _Nodes, offset: Any
) -> tuple[jax.Array, Pool]:
    """Final hidden states [b * R, D] of nodes, and the pool with their keys and values from `offset` on."""
    ancestors = jnp.maximum(nodes.path, 0)
    keys_and_values = (cache.keys[:, nodes.user], cache.values[:, nodes.user])
    past = (*keys_and_values, pool.keys[:, ancestors], pool.values[:, ancestors])
    position_bR = jnp.broadcast_to(nodes.depth - 1, nodes.token.shape)
    context = (cache.length_B[nodes.user], nodes.depth, nodes.path >= 0)
    outputs: Any = decoder.apply({"params": params}, nodes.token, position_bR, context, past, return_kv=True)
    x_bRD, (k, v) = outputs

    def put(pooled: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(pooled, new.reshape(len(new), -1, *new.shape[3:]), offset, axis=1)

    return x_bRD.reshape(-1, x_bRD.shape[-1]), Pool(keys=put(pool.keys, k), values=put(pool.values, v))


def _score_edges(decoder: Decoder, params: Any, x_RD: jax.Array, row_E: Any, token_E: Any) -> jax.Array:
    w_VD = head_weight(params, decoder.config).astype(x_RD.dtype)
    return jnp.sum(x_RD[row_E].astype(jnp.float32) * w_VD[token_E].astype(jnp.float32), axis=-1)


_visit = jax.jit(_visit_rows, static_argnums=0, donate_argnums=3)
_score = jax.jit(_score_edges, static_argnums=0)
_score_root = jax.jit(root_edge_logits, static_argnums=0)


def _root(decoder: Decoder, params: Any, token_E: np.ndarray, cache: PromptCache) -> np.ndarray:
    if not len(token_E):
        return np.zeros((len(cache.last_BD), 0), np.float32)
    return np.asarray(_score_root(decoder, params, token_E, cache))
