"""A log-linear ensemble of two or three rows: log p = (sum of w_k log p_k - log Z) / temperature, with weights that add
up to 1.

Weights are chosen from a grid on validation, by NDCG@10, so each row alone is among what is tried; then the
temperature, by the NLL. A product of distributions asks every member to agree, where an average would ask one of them
(Hinton 2002; Genest and Zidek 1986).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from cprec_jax.config.evaluate import EnsembleSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate.eval_set import EvalSet, validation_of
from cprec_jax.evaluate.method import Method, Scored, user_batches
from cprec_jax.evaluate.metrics import per_user

POWERS, SHIFTS = (1.0, 2.0, 4.0), (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
SHAPE_USERS = 500  # of the validation users, that power and shift are chosen on


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a member contributes: its log-probabilities, or (`power`) power * log(scores + shift), normalised.

    The distribution of a counting row is smoothed by popularity, and so orders items otherwise than its scores do.
    Where the scores rank validation targets better, they are the member, by the shift and power with the lowest NLL;
    popularity may be a member of its own.
    """

    power: float | None = None
    shift: float = 0.0

    def __str__(self) -> str:
        return (
            "probabilities" if self.power is None else f"scores to the power {self.power:g}, shifted by {self.shift:g}"
        )

    def of(self, scored: Scored) -> np.ndarray:
        """Log-probabilities float[b, N]."""
        assert scored.log_probs is not None and scored.scores is not None
        if self.power is None:
            return scored.log_probs
        return np.asarray(log_softmax(self.power * np.log(scored.scores + self.shift), axis=1))


class Ensemble:
    """The row `ensemble`. `members`: the methods by the names of their rows; each is asked for the validation users,
    too."""

    def __init__(self, members: Mapping[str, Method], spec: EnsembleSpec, corpus: Corpus):
        self._members, self._spec, self._corpus = members, spec, corpus
        self._facts: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        return self._facts

    def score(self, data: EvalSet) -> Iterator[Scored]:
        spec = self._spec
        valid = validation_of(self._corpus, data, spec.validation_users)
        if not len(valid):
            raise UserError(
                f"set {data.name}: an ensemble needs validation users to choose its weights on; leave this set out"
            )
        forms, weights, temperature, self._facts = self._choose(valid)
        streams = [
            _InOrder(name, member, data, form)
            for (name, member), form in zip(self._members.items(), forms, strict=True)
        ]
        for users in user_batches(len(data)):
            pooled = np.tensordot(weights, np.stack([stream.take(users) for stream in streams]), axes=1)
            yield Scored(users=users, scores=pooled, log_probs=log_softmax(pooled / temperature, axis=1))
        self._facts["members"] = {name: member.facts() for name, member in self._members.items()}

    def _choose(self, data: EvalSet) -> tuple[list[Form], np.ndarray, float, dict[str, Any]]:
        """Forms, weights, temperature, and what of them is recorded. Every member's validation users are held in
        float32."""
        members = [_held(name, member, data) for name, member in self._members.items()]
        forms, held = [form for form, _ in members], np.stack([log_probs for _, log_probs in members])
        rivals = _Rivals(held, data)
        tried = {weights: rivals.ndcg(np.array(weights)) for weights in simplex(len(self._members), self._spec.parts)}
        weights = max(tried, key=tried.__getitem__)
        nll = _nll_by_temperature(np.array(weights), held, data, self._spec.temperatures)
        temperature = min(nll, key=lambda t: nll[t])
        names = list(self._members)
        facts = {
            "weights": dict(zip(names, weights, strict=True)),
            "forms": dict(zip(names, map(str, forms), strict=True)),
            "temperature": temperature,
            "validation_ndcg@10": tried[weights],
            "tried": {
                ", ".join(f"{name} {w:g}" for name, w in zip(names, combination, strict=True)): value
                for combination, value in tried.items()
            },
            "validation_nll": {str(t): value for t, value in nll.items()},
            "validation_users": len(data),
        }
        return forms, np.array(weights), temperature, facts


def _held(name: str, method: Method, data: EvalSet) -> tuple[Form, np.ndarray]:
    """The form of a member, and its log-probabilities in that form, float32[n, N]."""
    scores, log_probs = np.zeros((2, len(data), len(data.items)), np.float32)
    for scored in method.score(data):
        _check_distribution(name, data, scored)
        scores[scored.users], log_probs[scored.users] = scored.scores, scored.log_probs
    if scores.min() < 0 or _Rivals(scores[None], data).ndcg(np.ones(1)) <= _Rivals(log_probs[None], data).ndcg(
        np.ones(1)
    ):
        return Form(), log_probs
    few = np.arange(min(len(data), SHAPE_USERS))
    nll = {
        form: _nll_of(form, scores[few], data.target[few])
        for form in (Form(power=p, shift=s) for p in POWERS for s in SHIFTS)
    }
    form = min(nll, key=nll.__getitem__)
    for users in user_batches(len(data)):
        log_probs[users] = log_softmax(form.power * np.log(scores[users] + form.shift), axis=1)
    return form, log_probs


def _nll_of(form: Form, scores: np.ndarray, target: np.ndarray) -> float:
    assert form.power is not None
    return -float(log_softmax(form.power * np.log(scores + form.shift), axis=1)[np.arange(len(target)), target].mean())


def _check_distribution(name: str, data: EvalSet, scored: Scored) -> None:
    if scored.log_probs is None or scored.scores is None or scored.partial:
        why = (
            "ranks_to leaves most titles out"
            if scored.partial
            else "it gives scores alone, or those of candidates alone"
        )
        raise UserError(f"config.evaluate.names: {name} has no distribution over the catalogue of {data.name} ({why})")


class _InOrder:
    """The distributions of a method in the order of the users, whatever its batches are; what comes early is held."""

    def __init__(self, name: str, method: Method, data: EvalSet, form: Form):
        self._name, self._data, self._form, self._scored = name, data, form, iter(method.score(data))
        self._held: dict[int, np.ndarray] = {}

    def take(self, users: np.ndarray) -> np.ndarray:
        while not all(int(user) in self._held for user in users):
            scored = next(self._scored)
            _check_distribution(self._name, self._data, scored)
            self._held |= zip(scored.users.tolist(), self._form.of(scored), strict=True)
        return np.stack([np.asarray(self._held.pop(int(user)), np.float64) for user in users])


def simplex(n: int, parts: int) -> list[tuple[float, ...]]:
    """All weights of n members in steps of 1 / parts that add up to 1; the most even ones first, which so win where all
    are equal."""
    counts = [ks for ks in itertools.product(range(parts + 1), repeat=n) if sum(ks) == parts]
    return [tuple(k / parts for k in ks) for ks in sorted(counts, key=lambda ks: sum(k * k for k in ks))]


class _Rivals:
    """What may stand above the targets, whatever the weights: items that some member prefers to the target, or that all
    have beside it."""

    def __init__(self, held: np.ndarray, data: EvalSet):
        """held: log-probabilities float32[members, n, N]."""
        counts, leads = [], []
        for users in user_batches(len(data)):
            lead = held[:, users] - held[:, users, data.target[users]][..., None]
            rival = lead.max(axis=0) >= 0
            rival[np.arange(len(users)), data.target[users]] = False
            if (excluded := data.excluded(users)) is not None:
                rival &= ~excluded
            counts.append(np.count_nonzero(rival, axis=1))
            leads.append(lead[:, rival])
        self._ends = np.cumsum(np.concatenate(counts))  # of each user's rivals
        self._leads = np.concatenate(leads, axis=1)

    def ndcg(self, weights: np.ndarray) -> float:
        """Mean NDCG@10 of the product with these weights."""
        lead = weights.astype(np.float32) @ self._leads
        better, tied = self._per_user(lead > 0), self._per_user(lead == 0)
        return float(per_user(better, tied)["ndcg@10"].mean())

    def _per_user(self, mask: np.ndarray) -> np.ndarray:
        """How many of each user's rivals. Slices are counted many times as fast as `np.bincount` counts their users."""
        return np.array([np.count_nonzero(part) for part in np.split(mask, self._ends[:-1])])


def _nll_by_temperature(
    weights: np.ndarray, held: np.ndarray, data: EvalSet, temperatures: tuple[float, ...]
) -> dict[float, float]:
    total = dict.fromkeys(temperatures, 0.0)
    for users in user_batches(len(data)):
        pooled = np.tensordot(weights, held[:, users], axes=1)
        for temperature in temperatures:
            total[temperature] -= float(
                log_softmax(pooled / temperature, axis=1)[np.arange(len(users)), data.target[users]].sum()
            )
    return {temperature: value / len(data) for temperature, value in total.items()}
