"""Score sources: whatever ranks a set gives, in batches of users, one score an item and (where it has one) a distribution."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.errors import UserError
from cprec_jax.evaluate.models import LoadedModel
from cprec_jax.evaluate.prompt_cache import encode_prompts
from cprec_jax.evaluate.prompts import PromptBatch, Prompts, make_prompts
from cprec_jax.evaluate.sets import EvalSet
from cprec_jax.evaluate.shared_prefix import score_after
from cprec_jax.evaluate.spec import EvaluateSpec
from cprec_jax.evaluate.title_trie import TitleTrie, build_trie
from cprec_jax.evaluate.trie_scoring import DeviceTrie, title_log_probs, to_device, trie_edge_logits
from cprec_jax.progress import Progress, say


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Users (positions in the set) with their scores float[b, N], and log-probabilities of the whole unmasked catalogue or None."""

    users: np.ndarray
    scores: np.ndarray
    log_probs: np.ndarray | None


class Method(Protocol):
    """Scores every user of a set once; `facts` are recorded in the set's results."""

    def score(self, data: EvalSet) -> Iterator[Scored]: ...

    def facts(self) -> dict[str, Any]: ...


USERS_A_BATCH = 512


def _batches(n: int) -> Iterator[np.ndarray]:
    for first in range(0, n, USERS_A_BATCH):
        yield np.arange(first, min(first + USERS_A_BATCH, n))


class Random:
    """All items alike: with tie-expected metrics this is the random ranker in closed form, and its NLL is log N."""

    def score(self, data: EvalSet) -> Iterator[Scored]:
        for users in _batches(len(data)):
            scores = np.zeros((len(users), len(data.items)))
            yield Scored(users=users, scores=scores, log_probs=scores - np.log(len(data.items)))

    def facts(self) -> dict[str, Any]:
        return {}


class Popularity:
    """Training interactions of an item; probabilities are add-one smoothed."""

    def score(self, data: EvalSet) -> Iterator[Scored]:
        count = data.train_count.astype(np.float64)
        log_probs = np.log((count + 1) / (count.sum() + len(count)))
        for users in _batches(len(data)):
            shape = (len(users), len(count))
            yield Scored(users=users, scores=np.broadcast_to(count, shape), log_probs=np.broadcast_to(log_probs, shape))

    def facts(self) -> dict[str, Any]:
        return {}


class Oracle:
    """The known next-item distribution of a synthetic corpus: no method can be better in expectation."""

    def score(self, data: EvalSet) -> Iterator[Scored]:
        if data.oracle is None:
            raise UserError(f"set {data.name}: the corpus holds no oracle (only synthetic sources have one); leave kind 'oracle' out")
        for users in _batches(len(data)):
            probabilities = data.oracle[users].astype(np.float64)
            log_probs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
            yield Scored(users=users, scores=probabilities, log_probs=log_probs)

    def facts(self) -> dict[str, Any]:
        return {}


class TitleModel:
    """A language model that scores titles. Rule `trie`: exact distribution over the catalogue. `sum`, `mean`: likelihood of the tokens."""

    def __init__(self, model: LoadedModel, spec: EvaluateSpec, validation: dict[str, EvalSet]):
        self._model, self._spec, self._validation = model, spec, validation
        self._facts: dict[str, Any] = {}
        limit = model.decoder.config.max_position_embeddings
        if spec.prompt_tokens >= limit:
            raise UserError(f"config.evaluate.prompt_tokens: {spec.prompt_tokens} leaves no room in a context of {limit} tokens")

    def facts(self) -> dict[str, Any]:
        return self._facts

    def score(self, data: EvalSet) -> Iterator[Scored]:
        prompts = self._prompts(data)
        self._facts = {"users_with_dropped_history": prompts.users_cut, "items_dropped": prompts.items_dropped}
        if self._spec.rule == "trie":
            yield from self._by_trie(data, prompts)
        else:
            yield from self._by_likelihood(data, prompts)

    def _prompts(self, data: EvalSet) -> Prompts:
        return make_prompts(data.targets, data.name, self._model.catalogue, self._model.template, self._spec.prompt_tokens)

    def _by_trie(self, data: EvalSet, prompts: Prompts) -> Iterator[Scored]:
        trie = build_trie(*self._model.catalogue.gather(data.items))
        runner = _TrieRunner(self._model, trie, self._spec)
        temperature = self._spec.temperature
        if temperature == "validation":
            temperature = self._fit_temperature(self._validation.get(data.name), runner)
        self._facts |= {"temperature": temperature, "skeleton_nodes": trie.nodes, "trie_edges": trie.edges}
        for batch, logits in runner.run(prompts, f"score {data.name}"):
            log_probs = np.asarray(runner.finish(logits, jnp.float32(temperature)))[: len(batch.users)]
            yield Scored(users=batch.users, scores=log_probs, log_probs=log_probs)

    def _fit_temperature(self, data: EvalSet | None, runner: "_TrieRunner") -> float:
        """The temperature of the grid with the lowest NLL of the validation targets; 1 without validation users."""
        if data is None or not len(data):
            return 1.0
        nll = np.zeros(len(self._spec.temperatures))
        for batch, logits in runner.run(self._prompts(data), f"temperature {data.name}"):
            rows = np.arange(len(batch.users))
            for index, temperature in enumerate(self._spec.temperatures):
                log_probs = np.asarray(runner.finish(logits, jnp.float32(temperature)))
                nll[index] -= log_probs[rows, data.target[batch.users]].sum(dtype=np.float64)
        best = int(np.argmin(nll))
        self._facts["validation_nll"] = {str(t): float(v / len(data)) for t, v in zip(self._spec.temperatures, nll, strict=True)}
        return self._spec.temperatures[best]

    def _by_likelihood(self, data: EvalSet, prompts: Prompts) -> Iterator[Scored]:
        lengths = self._model.catalogue.lengths[data.items].astype(np.int32)
        decoder, params = self._model.decoder, self._model.params
        encode = jax.jit(lambda tokens, length: encode_prompts(decoder, params, tokens, length))
        score = jax.jit(lambda cache, candidates, length: score_after(decoder, params, cache, candidates, length))
        order = np.argsort(lengths, kind="stable")  # chunks of like lengths waste little padding
        for batch in prompts.batches(min(8, self._spec.batch_users)):
            cache = encode(batch.tokens, batch.lengths)
            scores = np.zeros((len(batch.users), len(lengths)), np.float64)
            width = 0
            for first, last, width in _chunks(lengths[order], self._spec.batch_nodes // len(batch.tokens)):
                columns = order[first:last]
                padded = np.zeros((len(columns), width), np.int32)
                padded[np.arange(width)[None, :] < lengths[columns, None]] = self._model.catalogue.gather(data.items[columns])[0]
                shape = (len(batch.tokens), *padded.shape)
                found = score(cache, np.broadcast_to(padded, shape), np.broadcast_to(lengths[columns], shape[:2]))
                scores[:, columns] = np.asarray(found)[: len(batch.users)]
            log_probs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
            yield Scored(users=batch.users, scores=scores / lengths if self._spec.rule == "mean" else scores, log_probs=log_probs)


def _chunks(sorted_lengths: np.ndarray, budget: int) -> Iterator[tuple[int, int, int]]:
    """(first, last, padded length) of runs of titles whose padded tokens stay within `budget`; lengths in steps of 4 repeat shapes."""
    first = 0
    while first < len(sorted_lengths):
        width = -(-int(sorted_lengths[first]) // 4) * 4
        last = int(np.searchsorted(sorted_lengths, width, side="right"))
        last = min(last, first + max(1, budget // width))
        yield first, last, width
        first = last


class _TrieRunner:
    """Compiled skeleton scoring of one catalogue by one model."""

    def __init__(self, model: LoadedModel, trie: TitleTrie, spec: EvaluateSpec):
        self._model = model
        self._trie: DeviceTrie = to_device(trie)
        self._batch_users = max(1, min(spec.batch_users, spec.batch_nodes // max(trie.nodes, 1)))
        decoder = model.decoder
        self._logits = jax.jit(lambda params, trie, tokens, lengths: trie_edge_logits(decoder, params, trie, tokens, lengths))
        self._finish = jax.jit(title_log_probs)

    def run(self, prompts: Prompts, label: str) -> Iterator[tuple[PromptBatch, jax.Array]]:
        """The edge logits [B, E] of every batch of users."""
        progress = Progress(label, len(prompts.tokens), "users")
        for batch in prompts.batches(self._batch_users):
            yield batch, self._logits(self._model.params, self._trie, batch.tokens, batch.lengths)
            progress.advance(len(batch.users))

    def finish(self, logits: jax.Array, temperature: jax.Array) -> jax.Array:
        """log p of every title, float32 [B, N]."""
        return self._finish(self._trie, logits, temperature)


def warn_cut(data: EvalSet, facts: dict[str, Any]) -> None:
    """Say how many histories did not fit the prompt; the counts are in the results, too."""
    if facts.get("users_with_dropped_history"):
        n = facts["users_with_dropped_history"]
        say(f"evaluate: {data.name}: {n} of {len(data)} histories were longer than the prompt; their oldest items were dropped")
