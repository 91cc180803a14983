"""A language model as a method: the likelihood of titles after each user's prompt, by the rules `trie`, `sum` and
`mean`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from cprec_jax.config.evaluate import EvaluateSpec, Rule
from cprec_jax.errors import UserError
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.method import WHOLE, Scored, Share
from cprec_jax.inference.prompts import PromptBatch, Prompts, make_prompts, without_history
from cprec_jax.inference.title_tokens import titles_alike
from cprec_jax.inference.trie.exact import (
    DeviceTrie,
    block_edge_logits,
    encode_for_trie,
    join_edges,
    root_edge_logits,
    title_log_probs,
    to_device,
)
from cprec_jax.inference.trie.index import build_index
from cprec_jax.inference.trie.search import UNKNOWN, BestTitles, search
from cprec_jax.inference.trie.trie import TitleTrie, build_trie
from cprec_jax.methods.batch_sizes import users_per_batch
from cprec_jax.methods.beam_recall import BeamRecall, beam_facts
from cprec_jax.methods.forgetting import general_text
from cprec_jax.methods.leak_probe import leak_probe
from cprec_jax.methods.prompts_on_devices import check_room, placed
from cprec_jax.methods.token_likelihood import TokenLikelihood
from cprec_jax.methods.validation import Choice, Validation
from cprec_jax.model.decoder import Decoder
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.parallel.rules import replicated
from cprec_jax.progress import Progress, say
from cprec_jax.train.open import LoadedModel

# At module level, so that all methods and sets with like shapes share what is compiled.
_encode_for_trie = jax.jit(encode_for_trie, static_argnums=0)
_block_logits = jax.jit(block_edge_logits, static_argnums=0)
_root_logits = jax.jit(root_edge_logits, static_argnums=0)
_join = jax.jit(join_edges)
_finish = jax.jit(title_log_probs)

# Search together: the more, the fewer rows of a call are padding; each needs room in the pool of keys and values.
SEARCH_USERS = 16


class TitleModel:
    """A language model that scores titles. Rule `trie`: exact distribution over the catalogue. `sum`, `mean`:
    likelihood of the tokens.

    validation: the validation users of each set, by name, for all that is chosen. facts: recorded with those of every
    set. rule: the rule it scores by, None until validation has chosen it. counts: what searches count, over the users
    of the last set. All local devices, or `devices`, share the users; searches use one.
    """

    def __init__(
        self,
        model: LoadedModel,
        spec: EvaluateSpec,
        validation: dict[str, EvalSet],
        facts: Mapping[str, Any] | None = None,
    ):
        self._model, self._spec, self._validation = model, spec, validation
        # The default attend function, so that equal architectures are equal, and compiled once.
        self._decoder = Decoder(config=model.decoder.config, dtype=model.decoder.dtype)
        devices = jax.local_devices()[: spec.devices]
        if len(devices) > 1 and (spec.ranks_to is not None or spec.beam is not None):
            say(f"evaluate: ranks_to and beam search on one device of {len(devices)}; without them all share the users")
        self._mesh = make_mesh(devices=devices if spec.ranks_to is None else devices[:1])
        self._params = jax.device_put(model.params, replicated(self._mesh)) if self._mesh.size > 1 else model.params
        self._chosen = dict(facts or {})
        self._facts: dict[str, Any] = {}
        self._users = 0  # of the last set
        self.counts: Counter[str] = Counter()
        self.rule: Rule | None = None if spec.rule == "validation" else spec.rule
        self._rule_mrr: dict[str, float] = {}

    def facts(self) -> dict[str, Any]:
        facts = dict(self._facts)
        if self.rule == "trie" and self._spec.ranks_to is not None:
            facts["nodes_visited_per_user"] = self.counts["nodes"] / self._users
        if self.rule == "trie" and self._spec.beam is not None:
            facts["beam"] = beam_facts(self._spec.beam, self.counts)
        return facts

    def score(self, data: EvalSet, share: Share = WHOLE, choice: Choice | None = None) -> Iterator[Scored]:
        """share: which batches of the users. choice: what the set is scored by; None: it is chosen now."""
        prompts = self._prompts(data)
        self._users, self.counts = len(data), Counter()
        self._facts = self._chosen | {
            "users_with_dropped_history": prompts.users_cut,
            "items_dropped": prompts.items_dropped,
            "users_with_all_history_dropped": prompts.users_emptied,
            "titles_tokenised_alike": titles_alike(self._model.catalogue, data.items),
        }
        if prompts.users_cut:
            empty = (
                f"; of {prompts.users_emptied} nothing is left, so their prompt is the header alone"
                if prompts.users_emptied
                else ""
            )
            cut = f"{prompts.users_cut} of {len(data)} histories exceed the prompt"
            say(f"evaluate: {data.name}: {cut}; their oldest items were dropped{empty}")
        if choice is not None:
            self.rule = choice.rule
        elif self.rule is None:
            self.choose_rule()
        if self._rule_mrr:
            self._facts["validation_mrr_by_rule"] = self._rule_mrr
        if self.rule == "trie":
            by = self._by_trie if self._spec.ranks_to is None else self._by_search
            exact = by(data, prompts, share, choice)
            return exact if self._spec.beam is None else self._with_beam(data, prompts, share, exact, self._spec.beam)
        assert self.rule is not None
        by_tokens = TokenLikelihood(self._decoder, self._params, self._model, self._spec, self._mesh, self.rule)
        scored = by_tokens.catalogue if "full" in self._spec.protocols else by_tokens.candidates
        return scored(data, prompts, share)

    def choose(self, data: EvalSet) -> Choice:
        """What `score` would score a set by, for all that share its users."""
        rule = self.rule or self.choose_rule()
        if rule != "trie":
            return Choice(rule=rule)
        trie = self._trie(data)
        if self._spec.ranks_to is not None:
            return self._temperature(data, trie)
        return self._calibrated(data, to_device(trie, self._spec.node_chunk), trie)[0]

    def general_text(self, path: Path) -> dict[str, Any]:
        """See `general_text.general_text`."""
        assert self._model.tokenizer is not None
        return general_text(self._decoder, self._model.params, self._model.tokenizer, path)

    def leak_probe(self, data: EvalSet, n: int) -> dict[str, Any]:
        """See `leak_probe.leak_probe`."""
        return leak_probe(self._model, data, self._spec.prompt_tokens, n, self._spec.seed)

    def _prompts(self, data: EvalSet) -> Prompts:
        return make_prompts(
            data.targets, data.name, self._model.catalogue, self._model.template, self._spec.prompt_tokens
        )

    def _trie(self, data: EvalSet) -> TitleTrie:
        return build_trie(*self._model.catalogue.gather(data.items))

    def _validation_of(self, data: EvalSet, trie: TitleTrie) -> Validation:
        return Validation(self._decoder, self._model.params, self._model, self._spec, data, trie)

    def choose_rule(self) -> Rule:
        """Choose the rule with the highest mean reciprocal rank on validation; this model scores by it from now on."""
        self._rule_mrr = self._mrr_by_rule()
        self.rule = cast(Rule, max(self._rule_mrr, key=self._rule_mrr.__getitem__))
        say(f"evaluate: rule {self.rule}: mean reciprocal rank on validation {self._rule_mrr}")
        return self.rule

    def _mrr_by_rule(self) -> dict[str, float]:
        """By rule, the mean over all sets with validation users; one rule is used for all sets."""
        mrr = []
        for data in self._validation.values():
            if len(data):
                validation = self._validation_of(data, self._trie(data))
                mrr.append(validation.mrr_by_rule(self._fitted(validation.nll_by_temperature())))
        if not mrr:
            raise UserError(
                "config.evaluate.rule: 'validation' needs validation users, and no set has any; choose trie, sum or "
                "mean"
            )
        return {rule: float(np.mean([of_set[rule] for of_set in mrr])) for rule in mrr[0]}

    def validation_nll(self) -> float:
        """NLL of the validation targets under the rule `trie`, mean over sets, each at its own best temperature."""
        sets = [data for data in self._validation.values() if len(data)]
        if not sets:
            raise UserError("config.evaluate.names: step 'validation' needs validation users, and no set has any")
        return float(
            np.mean([min(self._validation_of(data, self._trie(data)).nll_by_temperature().values()) for data in sets])
        )

    def _fitted(self, nll: dict[float, float]) -> float:
        fixed = self._spec.temperature
        return min(nll, key=nll.__getitem__) if fixed == "validation" else float(fixed)

    def _by_trie(self, data: EvalSet, prompts: Prompts, share: Share, choice: Choice | None) -> Iterator[Scored]:
        trie = self._trie(data)
        check_room(self._model, self._spec, data.name, int(trie.node_depth.max(initial=0)))
        device_trie = to_device(trie, self._spec.node_chunk)
        if choice is None:
            choice, base = self._calibrated(data, device_trie, trie)
        else:
            base = self._without_history(data, device_trie, trie, [choice.temperature] if choice.pmi_weight else [])
        temperature, weight = choice.temperature, choice.pmi_weight
        self._facts |= {
            **choice.facts,
            "temperature": temperature,
            "skeleton_nodes": trie.nodes,
            "trie_edges": trie.edges,
        }
        for batch, logits in self._logits(device_trie, trie, prompts, f"score {data.name}", share):
            log_probs = np.asarray(_finish(device_trie, logits, jnp.float32(temperature)))[: len(batch.users)]
            if weight:
                log_probs = log_softmax(log_probs - weight * base[temperature], axis=1)
            yield Scored(users=batch.users, scores=log_probs, log_probs=log_probs)

    def _by_search(self, data: EvalSet, prompts: Prompts, share: Share, choice: Choice | None) -> Iterator[Scored]:
        """The best titles of each user, the target and the candidates; all other titles somewhere below the best.

        Where the target is among the best, unknown titles rank below everything known; else above the target, so that
        its rank is never flattered.
        """
        ranks_to = self._spec.ranks_to
        assert ranks_to is not None
        trie = self._trie(data)
        check_room(self._model, self._spec, data.name, int(trie.node_depth.max(initial=0)))
        index, batch_users = build_index(trie), min(self._spec.batch_users, SEARCH_USERS)
        choice = choice or self._temperature(data, trie)
        self._facts |= {
            **choice.facts,
            "temperature": choice.temperature,
            "skeleton_nodes": trie.nodes,
            "ranks_exact_to": ranks_to,
        }
        progress = Progress(f"score {data.name}", share.users(len(data), batch_users), "users")
        wanted = np.concatenate([data.target[:, None], *data.candidates.values()], axis=1)
        for batch in share.take(prompts.batches(batch_users)):
            count = len(batch.users)
            excluded = data.excluded(batch.rows)
            best = np.full(batch_users, ranks_to) + (0 if excluded is None else excluded.sum(axis=1))
            best[count:] = 1  # these users only fill the batch
            cache = _encode_for_trie(self._decoder, self._params, batch.tokens, batch.lengths)
            reached = search(
                self._decoder, self._params, index, cache, wanted[batch.rows], best, temperature=choice.temperature
            )
            self.counts["nodes"] += reached.nodes
            scores = _filled(reached, data.target[batch.rows])[:count]
            yield Scored(users=batch.users, scores=scores, log_probs=reached.log_probs[:count], partial=True)
            progress.advance(count)

    def _with_beam(
        self, data: EvalSet, prompts: Prompts, share: Share, exact: Iterator[Scored], width: int
    ) -> Iterator[Scored]:
        """The exact scores, and beside them what a beam would have found."""
        beam = BeamRecall(self._decoder, self._model.params, self._trie(data), width, self.counts)
        for batch in exact:
            beam.add(data, prompts, batch, self._facts["temperature"])
            yield batch
        if share == WHOLE:
            facts = ", ".join(f"{key} {value:.4g}" for key, value in beam_facts(width, self.counts).items())
            say(f"evaluate: {data.name}: a beam finds {facts}")

    def _temperature(self, data: EvalSet, trie: TitleTrie) -> Choice:
        users = self._validation.get(data.name)
        grid, _ = self._spec.grids(bool(users is not None and len(users)))
        if users is None or len(grid) == 1:
            return Choice(rule="trie", temperature=grid[0])
        nll = self._validation_of(users, trie).nll_by_temperature()
        facts = {"validation_nll": {str(t): value for t, value in nll.items()}}
        return Choice(rule="trie", temperature=self._fitted(nll), facts=facts)

    def _calibrated(
        self, data: EvalSet, device_trie: DeviceTrie, trie: TitleTrie
    ) -> tuple[Choice, dict[float, np.ndarray]]:
        """Temperature and weight of the unconditional log-probabilities, and those, float32[N], by temperature."""
        users = self._validation.get(data.name)
        grid_t, grid_w = self._spec.grids(bool(users is not None and len(users)))
        if grid_w == (0.0,):
            return self._temperature(data, trie), {}
        base = self._without_history(data, device_trie, trie, grid_t)
        total = np.zeros((len(grid_t), len(grid_w)))
        facts: dict[str, Any] = {}
        if users is not None and total.size > 1:
            for batch, logits in self._logits(device_trie, trie, self._prompts(users), f"calibrate {data.name}"):
                rows = np.arange(len(batch.users))
                for i, t in enumerate(grid_t):
                    log_probs = np.asarray(_finish(device_trie, logits, jnp.float32(t)))[: len(rows)]
                    for j, w in enumerate(grid_w):
                        total[i, j] -= log_softmax(log_probs - w * base[t], axis=1)[
                            rows, users.target[batch.users]
                        ].sum(dtype=np.float64)
            facts["validation_nll_by_pmi"] = {
                str(t): {str(w): float(v / len(users)) for w, v in zip(grid_w, row, strict=True)}
                for t, row in zip(grid_t, total, strict=True)
            }
        i, j = divmod(int(np.argmin(total)), len(grid_w))
        facts["pmi_weight"] = grid_w[j]
        return Choice(rule="trie", temperature=grid_t[i], pmi_weight=grid_w[j], facts=facts), base

    def _without_history(
        self, data: EvalSet, device_trie: DeviceTrie, trie: TitleTrie, temperatures: Sequence[float]
    ) -> dict[float, np.ndarray]:
        """The log-probabilities, float32[N], after a prompt without history, by temperature."""
        if not temperatures:
            return {}
        nothing = make_prompts(
            without_history(data.targets),
            data.name,
            self._model.catalogue,
            self._model.template,
            self._spec.prompt_tokens,
        )
        _, logits = next(self._logits(device_trie, trie, nothing, f"empty history {data.name}"))
        return {t: np.asarray(_finish(device_trie, logits, jnp.float32(t)))[0] for t in temperatures}

    def _logits(
        self, device_trie: DeviceTrie, trie: TitleTrie, prompts: Prompts, label: str, share: Share = WHOLE
    ) -> Iterator[tuple[PromptBatch, jax.Array]]:
        """The edge logits [B, E] of every batch of users."""
        batch_users = users_per_batch(self._spec, min(trie.nodes, self._spec.node_chunk), self._mesh)
        progress = Progress(label, share.users(len(prompts.tokens), batch_users), "users")
        chunks = device_trie.chunks()
        for batch in share.take(prompts.batches(batch_users)):
            cache = _encode_for_trie(self._decoder, self._params, *placed(batch, self._mesh))
            root = _root_logits(self._decoder, self._params, device_trie.root_token, cache)
            # one call per chunk: what is compiled depends on no catalogue
            below = [_block_logits(self._decoder, self._params, cache, chunk) for chunk in chunks]
            yield batch, _join(device_trie.below_position, root, below)
            progress.advance(len(batch.users))


def _filled(best: BestTitles, target: np.ndarray) -> np.ndarray:
    """Scores of a search, float64[U, N], with one score for all unknown titles of a user: below everything, or above
    the target."""
    of_target = best.log_probs[np.arange(len(target)), target]
    unknown = np.where(of_target >= best.bound, UNKNOWN, (of_target + best.bound) / 2)
    return np.where(best.log_probs == UNKNOWN, unknown[:, None], best.log_probs)
