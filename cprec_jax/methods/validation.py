"""What validation chooses for a language model: temperature, scoring rule, checkpoint. It scores a few titles per user,
never the whole catalogue.

One pass over some titles of each validation user gives everything: the logits along their ways through the trie
(`inference/trie/paths`), so the exact `trie` probability at every temperature, and the likelihood of their tokens, so
the rules `sum` and `mean`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from cprec_jax.config.evaluate import EvaluateSpec, Rule
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.metrics import per_user
from cprec_jax.evaluate.ranks import rank
from cprec_jax.inference.prompt_cache import encode_prompts
from cprec_jax.inference.prompts import make_prompts
from cprec_jax.inference.shared_prefix import score_after
from cprec_jax.inference.title_tokens import first_alike, padded_titles, tied
from cprec_jax.inference.trie.paths import PathPlan, path_logits, plan_paths
from cprec_jax.inference.trie.trie import TitleTrie
from cprec_jax.model.decoder import Decoder

_encode = jax.jit(encode_prompts, static_argnums=0)
_paths = jax.jit(path_logits, static_argnums=0)
_score_after = jax.jit(score_after, static_argnums=0)

NEGATIVES = 99  # seeded, uniform, beside the target: on these the scoring rule is chosen
RULES = ("trie", "sum", "mean")
TOKENS = 4096  # of prompts and titles together in a batch


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a model scores one set by. pmi_weight: of the unconditional log-probabilities. facts: what it was chosen by,
    for the record."""

    rule: Rule
    temperature: float = 1.0
    pmi_weight: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class Validation:
    """A model on the validation users of one set. `decoder` has its default attend function; `model`: its titles and
    template."""

    def __init__(self, decoder: Decoder, params: Any, model: Any, spec: EvaluateSpec, data: EvalSet, trie: TitleTrie):
        self._decoder, self._params, self._model, self._spec, self._data, self._trie = (
            decoder,
            params,
            model,
            spec,
            data,
            trie,
        )

    def nll_by_temperature(self) -> dict[float, float]:
        """Mean NLL of the targets under the rule `trie`, over the whole catalogue, at each temperature of the grid."""
        total = np.zeros(len(self._spec.temperatures))
        for _, plan, logits, _ in self._scored(self._data.target[:, None], with_sums=False):
            total += [-plan.log_probs(logits, t)[:, 0].sum() for t in self._spec.temperatures]
        return {t: float(v) / len(self._data) for t, v in zip(self._spec.temperatures, total, strict=True)}

    def mrr_by_rule(self, temperature: float) -> dict[str, float]:
        """Mean reciprocal rank of the target among itself and seeded uniform negatives, by each rule."""
        columns = np.concatenate([self._data.target[:, None], self._negatives()], axis=1)
        lengths = self._model.catalogue.lengths[self._data.items]
        alike = first_alike(self._model.catalogue, self._data.items)
        total = dict.fromkeys(RULES, 0.0)
        for users, plan, logits, sums in self._scored(columns, with_sums=True):
            scores = {"trie": plan.log_probs(logits, temperature), "sum": sums, "mean": sums / lengths[columns[users]]}
            for rule, scores_bC in scores.items():
                ranks = rank(tied(scores_bC, alike[columns[users]]), np.zeros(len(users), np.int64))
                total[rule] += float(per_user(ranks.n_better, ranks.n_tied)["mrr"].sum())
        return {rule: value / len(self._data) for rule, value in total.items()}

    def _negatives(self) -> np.ndarray:
        rng = np.random.default_rng(self._spec.seed)
        n, size = len(self._data.items), min(NEGATIVES, len(self._data.items) - 1)
        drawn = np.stack([rng.choice(n - 1, size, replace=False) for _ in range(len(self._data))])
        return drawn + (drawn >= self._data.target[:, None])

    def _scored(
        self, columns_nC: np.ndarray, with_sums: bool
    ) -> Iterator[tuple[np.ndarray, PathPlan, np.ndarray, np.ndarray]]:
        """(users, plan, logits of the edges on the titles' ways, sums [b, C] of the tokens' log-likelihoods) of every
        batch of users."""
        catalogue, spec = self._model.catalogue, self._spec
        prompts = make_prompts(self._data.targets, self._data.name, catalogue, self._model.template, spec.prompt_tokens)
        tokens_per_user = spec.prompt_tokens + int(catalogue.lengths[self._data.items][columns_nC].sum(axis=1).max())
        batch_users = max(1, min(spec.batch_users, TOKENS // tokens_per_user))
        for batch in prompts.batches(batch_users):
            columns_BC = columns_nC[batch.rows]
            tokens = padded_titles(catalogue, self._data.items[columns_BC])
            plan = plan_paths(self._trie, columns_BC, tokens.shape[2] - 1)
            cache = _encode(self._decoder, self._params, batch.tokens, batch.lengths)
            logits = np.asarray(_paths(self._decoder, self._params, cache, tokens, plan.state, plan.token))
            sums = np.zeros(columns_nC[batch.users].shape)
            if with_sums:
                lengths = catalogue.lengths[self._data.items][columns_BC].astype(np.int32)
                sums = np.asarray(_score_after(self._decoder, self._params, cache, tokens, lengths), np.float64)[
                    : len(batch.users)
                ]
            yield batch.users, plan.first_users(len(batch.users)), logits[: len(batch.users)], sums
