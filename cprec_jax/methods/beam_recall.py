"""The recall of a beam: how many of the best titles of the exact ranking it reaches, on the same users.

Serving a huge catalogue by a beam (`config.generate.beam`) is quick and not exact; this measures what it costs.
"""

from collections import Counter
from typing import Any

import jax
import numpy as np

from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.method import Scored
from cprec_jax.inference.prompts import Prompts
from cprec_jax.inference.trie.exact import encode_for_trie
from cprec_jax.inference.trie.index import build_index
from cprec_jax.inference.trie.search import UNKNOWN, search
from cprec_jax.inference.trie.trie import TitleTrie
from cprec_jax.model.decoder import Decoder

_encode = jax.jit(encode_for_trie, static_argnums=0)

PLACES = (1, 10, 100)
USERS = 16  # search together


class BeamRecall:
    """Gathers, batch by batch of exact scores, how many of each user's best titles a beam of `width` nodes per level
    reaches. counts: where it adds them up."""

    def __init__(self, decoder: Decoder, params: Any, trie: TitleTrie, width: int, counts: Counter[str]):
        self._decoder, self._params, self._index, self._width = decoder, params, build_index(trie), width
        self._places = [k for k in PLACES if k <= len(trie.title_edge)]
        self._counts = counts

    def add(self, data: EvalSet, prompts: Prompts, exact: Scored, temperature: float) -> None:
        """`exact`: scores under the rule `trie`, right for at least the best 100 of every user that are no items of the
        history."""
        assert exact.scores is not None
        for first in range(0, len(exact.users), USERS):
            rows = slice(first, first + USERS)
            self._add(data, prompts, exact.users[rows], exact.scores[rows], temperature)

    def _add(
        self, data: EvalSet, prompts: Prompts, users: np.ndarray, scores_uN: np.ndarray, temperature: float
    ) -> None:
        batch = prompts.batch(users, USERS)
        cache = _encode(self._decoder, self._params, batch.tokens, batch.lengths)
        excluded = data.excluded(users)
        hidden = np.zeros(len(users), np.int64) if excluded is None else excluded.sum(axis=1)
        best = np.ones(USERS, np.int64)  # users that only fill the batch ask for one
        best[: len(users)] = self._places[-1] + hidden
        nothing = np.zeros((USERS, 0), np.int64)
        beam = search(
            self._decoder, self._params, self._index, cache, nothing, best, beam=self._width, temperature=temperature
        )
        visible = scores_uN if excluded is None else np.where(excluded, -np.inf, scores_uN)
        order = np.argsort(-visible, axis=1, kind="stable")[:, : self._places[-1]]
        # What a beam reaches has its exact score, so what it reaches of the best are the best of what it reaches.
        reached = np.take_along_axis(beam.log_probs[: len(users)], order, axis=1) > UNKNOWN
        is_visible = np.arange(order.shape[1]) < (visible.shape[1] - hidden)[:, None]
        for k in self._places:
            self._counts[f"beam reached@{k}"] += int((reached & is_visible)[:, :k].sum())
            self._counts[f"beam wanted@{k}"] += int(is_visible[:, :k].sum())
        self._counts["beam users"] += len(users)
        self._counts["beam nodes"] += beam.nodes


def beam_facts(width: int, counts: Counter[str]) -> dict[str, Any]:
    """For results.json: width, recall@1, @10 and @100 (those that the catalogue has) and nodes visited per user."""
    recall = {
        f"recall@{k}": counts[f"beam reached@{k}"] / max(counts[f"beam wanted@{k}"], 1)
        for k in PLACES
        if f"beam wanted@{k}" in counts
    }
    return {"width": width, **recall, "nodes_visited_per_user": counts["beam nodes"] / max(counts["beam users"], 1)}
