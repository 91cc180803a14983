"""Titles by the likelihood of their tokens after a user's prompt: the rules `sum`, and `mean` per token."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from scipy.special import log_softmax

from cprec_jax.config.evaluate import EvaluateSpec, Rule
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.method import Scored, Share
from cprec_jax.inference.prompt_cache import PromptCache, encode_prompts
from cprec_jax.inference.prompts import Prompts
from cprec_jax.inference.shared_prefix import score_after
from cprec_jax.inference.title_tokens import first_alike, padded_titles, tied
from cprec_jax.methods.batch_sizes import title_chunks, users_per_batch
from cprec_jax.methods.prompts_on_devices import check_room, placed
from cprec_jax.model.decoder import Decoder
from cprec_jax.progress import Progress
from cprec_jax.train.open import LoadedModel

# At module level, so that all methods and sets with like shapes share what is compiled.
_encode = jax.jit(encode_prompts, static_argnums=0)
_score_after = jax.jit(score_after, static_argnums=0)

CANDIDATES = 32  # of a user, scored together when only sampled protocols are asked for


class TokenLikelihood:
    """Scores by `rule`, `sum` or `mean`; log-probabilities are those of the sums, whatever is ranked by."""

    def __init__(self, decoder: Decoder, params: Any, model: LoadedModel, spec: EvaluateSpec, mesh: Mesh, rule: Rule):
        self._decoder, self._params, self._model, self._spec, self._mesh = decoder, params, model, spec, mesh
        self._rule = rule

    def catalogue(self, data: EvalSet, prompts: Prompts, share: Share) -> Iterator[Scored]:
        """The whole catalogue after each prompt, a chunk of titles at a time."""
        lengths = self._model.catalogue.lengths[data.items].astype(np.int32)
        check_room(self._model, self._spec, data.name, int(lengths.max()))
        # What is alike is scored once: in other rows of other chunks, rounding would tell copies apart.
        alike = first_alike(self._model.catalogue, data.items)
        distinct = np.unique(alike)
        order = distinct[np.argsort(lengths[distinct], kind="stable")]  # chunks of like lengths waste little padding
        batch_users = users_per_batch(self._spec, self._spec.node_chunk, self._mesh)
        chunks = [
            (order[a:b], padded_titles(self._model.catalogue, data.items[order[a:b]]))
            for a, b in title_chunks(lengths[order], self._spec.node_chunk)
        ]
        progress = Progress(f"score {data.name}", share.users(len(data), batch_users), "users")
        for batch in share.take(prompts.batches(batch_users)):
            cache: PromptCache = _encode(self._decoder, self._params, *placed(batch, self._mesh))
            scores = np.zeros((len(batch.users), len(lengths)), np.float64)
            for columns, tokens_Ct in chunks:
                shape = (batch_users, *tokens_Ct.shape)
                scored = _score_after(
                    self._decoder,
                    self._params,
                    cache,
                    np.broadcast_to(tokens_Ct, shape),
                    np.broadcast_to(lengths[columns], shape[:2]),
                )
                scores[:, columns] = np.asarray(scored)[: len(batch.users)]
            scores = scores[:, alike]
            log_probs = log_softmax(scores, axis=1)
            yield Scored(
                users=batch.users, scores=scores / lengths if self._rule == "mean" else scores, log_probs=log_probs
            )
            progress.advance(len(batch.users))

    def candidates(self, data: EvalSet, prompts: Prompts, share: Share) -> Iterator[Scored]:
        """The candidates of the sampled protocols, each user's sorted by length, so that blocks of them waste little
        padding."""
        catalogue, spec = self._model.catalogue, self._spec
        columns_nC = np.concatenate(list(data.candidates.values()), axis=1)
        ends = np.cumsum([c.shape[1] for c in data.candidates.values()])
        lengths_nC = catalogue.lengths[data.items][columns_nC].astype(np.int32)
        alike = first_alike(catalogue, data.items)
        copies = len(np.unique(alike)) < len(alike)
        check_room(self._model, self._spec, data.name, int(lengths_nC.max()))
        batch_users = users_per_batch(spec, int(lengths_nC.sum(axis=1).max()), self._mesh)
        for batch in share.take(prompts.batches(batch_users)):
            lengths_BC = lengths_nC[batch.rows]
            cache: PromptCache = _encode(self._decoder, self._params, *placed(batch, self._mesh))
            order = np.argsort(lengths_BC, axis=1, kind="stable")
            scores = np.zeros(order.shape)
            for first in range(0, order.shape[1], CANDIDATES):
                block = order[:, first : first + CANDIDATES]
                tokens = padded_titles(
                    self._model.catalogue, data.items[np.take_along_axis(columns_nC[batch.rows], block, axis=1)]
                )
                length = np.take_along_axis(lengths_BC, block, axis=1)
                sums = np.asarray(_score_after(self._decoder, self._params, cache, tokens, length))
                np.put_along_axis(scores, block, sums / length if self._rule == "mean" else sums, axis=1)
            if copies:
                scores = tied(scores, alike[columns_nC[batch.rows]])
            parts = np.split(scores[: len(batch.users)], ends[:-1], axis=1)
            yield Scored(
                users=batch.users,
                scores=None,
                log_probs=None,
                by_protocol=dict(zip(data.candidates, parts, strict=True)),
            )
