"""The `trie` rule for a few titles of each user: exact, from nothing but their ways through the trie.

A title's probability needs the logits of its siblings at each branch it passes, not the rest of the catalogue: for one
title that is about a thousandth of the work. So temperatures, rules and checkpoints are compared on many validation
users at hardly any cost.

B users, C titles per user, t tokens per title, E edges scored, D model.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.inference.prompt_cache import PromptCache
from cprec_jax.inference.shared_prefix import hidden_after
from cprec_jax.inference.trie.trie import TitleTrie
from cprec_jax.model.decoder import Decoder, head_weight

PAD = 512  # edges are padded to a multiple, so that few shapes are compiled


@dataclass(frozen=True, kw_only=True)
class PathPlan:
    """What to compute for B users and their C titles.

    state, token int32[B, E]: the hidden state that gives each edge's logit (0 = end of the prompt, else 1 + title *
    (t - 1) + step), and its token. first int64[nodes] per user: where each branching node's children start in the
    user's row; end: where they stop. node, column, title int64[edges] per user: of each edge on a title's way its
    node, its column in the row, and the title. copies float64[B, C]: `TitleTrie.title_copies`.
    """

    state: np.ndarray
    token: np.ndarray
    first: list[np.ndarray]
    end: list[int]
    node: list[np.ndarray]
    column: list[np.ndarray]
    title: list[np.ndarray]
    copies: np.ndarray

    def log_probs(self, logits_BE: np.ndarray, temperature: float) -> np.ndarray:
        """float64[B, C]."""
        log_probs = -np.log(self.copies)
        for user in range(len(log_probs)):
            if not len(self.node[user]):
                continue
            scaled = logits_BE[user, : self.end[user]].astype(np.float64) / temperature
            total = np.logaddexp.reduceat(scaled, self.first[user])
            np.add.at(log_probs[user], self.title[user], scaled[self.column[user]] - total[self.node[user]])
        return log_probs

    def first_users(self, count: int) -> "PathPlan":
        """The plan without the users that only fill a batch."""
        return replace(self, copies=self.copies[:count])


def plan_paths(trie: TitleTrie, titles_BC: np.ndarray, steps: int) -> PathPlan:
    """`titles_BC`: their numbers in the trie; `steps`: hidden states per title, t - 1."""
    first_edge = np.searchsorted(trie.edge_parent, np.arange(trie.nodes + 2))
    rows = [_plan_user(trie, titles, steps, first_edge) for titles in titles_BC]
    width = max(1, -(-max(len(row[0]) for row in rows) // PAD)) * PAD
    state, token = np.zeros((2, len(rows), width), np.int32)
    for user, row in enumerate(rows):
        state[user, : len(row[0])], token[user, : len(row[1])] = row[0], row[1]
    return PathPlan(
        state=state,
        token=token,
        first=[row[2] for row in rows],
        end=[len(row[0]) for row in rows],
        node=[row[3] for row in rows],
        column=[row[4] for row in rows],
        title=[row[5] for row in rows],
        copies=trie.title_copies[titles_BC].astype(np.float64),
    )


def _plan_user(trie: TitleTrie, titles: np.ndarray, steps: int, first_edge: np.ndarray) -> tuple[np.ndarray, ...]:
    ways = trie.ways(titles)
    level, title = np.nonzero(ways.T >= 0)
    edge = ways[title, level]
    parent = trie.edge_parent[edge]
    nodes, first_seen, node = np.unique(parent, return_index=True, return_inverse=True)
    count = first_edge[nodes + 1] - first_edge[nodes]
    first = np.concatenate([[0], np.cumsum(count)])
    children = np.arange(first[-1]) + np.repeat(first_edge[nodes] - first[:-1], count)
    # any title that passes a node has its hidden state
    state = np.where(nodes == 0, 0, 1 + title[first_seen] * steps + trie.node_depth[nodes] - 1)
    column = first[:-1][node] + edge - first_edge[parent]
    return np.repeat(state, count), trie.edge_token[children], first[:-1], node, column, title


def path_logits(
    decoder: Decoder, params: Any, cache: PromptCache, titles_BCt: jax.Array, state_BE: jax.Array, token_BE: jax.Array
) -> jax.Array:
    """float32 [B, E]: logits of the edges of a plan, after prompts encoded from their start. Jit it."""
    w_VD = head_weight(params, decoder.config).astype(cache.last_BD.dtype)
    x_BSD = cache.last_BD[:, None]
    if titles_BCt.shape[2] > 1:
        x_BSD = jnp.concatenate([x_BSD, hidden_after(decoder, params, cache, titles_BCt)], axis=1)
    x_BED = jnp.take_along_axis(x_BSD, state_BE[:, :, None], axis=1)
    return jnp.sum(x_BED.astype(jnp.float32) * w_VD[token_BE].astype(jnp.float32), axis=-1)
