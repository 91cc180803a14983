"""GRU4Rec and SASRec as methods: trained on the training sequences of the set's domain, tuned on its validation split,
ranked like all."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from scipy.special import log_softmax

from cprec_jax.config.sequential import SequentialSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate.eval_set import EvalSet, validation_of
from cprec_jax.evaluate.interactions import Interactions, histories, interactions
from cprec_jax.evaluate.kept import Shelf
from cprec_jax.evaluate.method import Scored, user_batches
from cprec_jax.evaluate.metrics import per_user
from cprec_jax.evaluate.ranks import rank
from cprec_jax.methods import sequence_models
from cprec_jax.methods.sequence_models import Architecture, GRU4Rec, SASRec
from cprec_jax.methods.title_embeddings import Titles, composed, initial, known
from cprec_jax.progress import say

Model = SASRec | GRU4Rec
WIDTHS = (2, 4, 8, 16, 32, 64, 128, 256, 512)  # sequences of like length share a batch, so that little of it is padding


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Parameters of the best epoch, its validation NDCG@10, and what training took."""

    model: Model
    params: Any
    ndcg: float
    epoch: int
    learning_rate: float


class Sequential:
    """One seed of GRU4Rec or SASRec. `first`: the first seed, which chose dropout and learning rate for all; None: this
    is it.

    `titles`: features float32[N, hidden] of the items of a set, from which their embeddings start (see
    `title_embeddings`). `shelf`: where what is trained is kept.
    """

    def __init__(
        self,
        architecture: Architecture,
        spec: SequentialSpec,
        corpus: Corpus,
        temperatures: tuple[float, ...],
        seed: int,
        first: "Sequential | None",
        titles: Callable[[EvalSet], np.ndarray] | None = None,
        shelf: Shelf | None = None,
    ):
        self._architecture: Architecture = architecture
        self._spec, self._corpus, self._temperatures, self._seed, self._first = spec, corpus, temperatures, seed, first
        self._titles, self._shelf = titles, shelf
        self._facts: dict[str, Any] = {}
        self._fitted: dict[
            str, tuple[Trained, float, dict[str, Any]]
        ] = {}  # by set: an ensemble ranks validation users, too

    def facts(self) -> dict[str, Any]:
        return self._facts

    def score(self, data: EvalSet) -> Iterator[Scored]:
        best, temperature, facts = self.fitted(data)
        dropped = np.maximum(np.diff(data.targets.offsets) - self._spec.max_length, 0)
        if cut := int(np.count_nonzero(dropped)):
            beyond = f"{cut} of {len(data)} histories exceed sequential.max_length {self._spec.max_length}"
            say(f"evaluate: {data.name}: {beyond}; their oldest items were dropped")
        self._facts = facts | {"users_with_dropped_history": cut, "items_dropped": int(dropped.sum())}
        for users in user_batches(len(data)):
            scores = _scores(best, data, users)
            yield Scored(users=users, scores=scores, log_probs=log_softmax(scores / temperature, axis=1))

    def fitted(self, data: EvalSet) -> tuple[Trained, float, dict[str, Any]]:
        """The best model for a set, its temperature, and what of them is recorded. None of it depends on the users that
        `data` ranks."""
        if data.name not in self._fitted:
            self._fitted[data.name] = self._fit(data)
        return self._fitted[data.name]

    def _fit(self, data: EvalSet) -> tuple[Trained, float, dict[str, Any]]:
        valid = validation_of(self._corpus, data, self._spec.validation_users)
        if not len(valid):
            raise UserError(
                f"set {data.name}: {self._architecture} needs validation users to stop on; leave this set out"
            )
        best, of_training = self._trained(valid)
        temperature, nll = _fit_temperature(best, valid, self._temperatures)
        return best, temperature, of_training | {"temperature": temperature, "validation_nll": nll}

    def _trained(self, valid: EvalSet) -> tuple[Trained, dict[str, Any]]:
        """The best model, and what of its training is recorded. One that was trained before is read."""
        kept = None if self._shelf is None else self._shelf.read(valid.name)
        if kept is not None:
            arrays, facts = kept
            best = Trained(
                model=sequence_models.make(self._architecture, len(valid.items), self._spec, facts["dropout"]),
                params=unflatten_dict({name: jnp.asarray(array) for name, array in arrays.items()}, sep="/"),
                ndcg=facts["validation_ndcg@10"],
                epoch=facts["best_epoch"],
                learning_rate=facts["learning_rate"],
            )
            say(f"evaluate: {self._architecture} on {valid.name}, seed {self._seed}: was trained before")
            return best, facts
        started = time.monotonic()
        best, tried = self._tuned(interactions(self._corpus, valid, "train"), valid)
        facts = {
            "dropout": best.model.dropout,
            "learning_rate": best.learning_rate,
            "best_epoch": best.epoch,
            "validation_ndcg@10": best.ndcg,
            "tried": tried,
            "parameters": int(sum(leaf.size for leaf in jax.tree.leaves(best.params))),
            "train_seconds": time.monotonic() - started,
        }
        if self._shelf is not None:
            arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(best.params, sep="/").items()}
            self._shelf.write(valid.name, arrays, facts)
        return best, facts

    def _tuned(self, train: Interactions, valid: EvalSet) -> tuple[Trained, dict[str, float]]:
        """The best of the grid, with the first seed; later seeds train only that. Validation NDCG@10 by setting."""
        if self._first is None:
            grid = list(itertools.product(self._spec.dropout, self._spec.learning_rate))
        else:
            chosen, _, _ = self._first.fitted(valid)
            grid = [(chosen.model.dropout, chosen.learning_rate)]
        best, tried = None, {}
        titles = None if self._titles is None else Titles(self._titles(valid), known(train.items, train.n_items))
        for dropout, rate in grid:
            model = sequence_models.make(self._architecture, train.n_items, self._spec, dropout)
            trained = fit(model, rate, train, valid, self._seed, titles)
            tried[f"dropout {dropout:g}, learning rate {rate:g}"] = trained.ndcg
            if best is None or trained.ndcg > best.ndcg:
                best = trained
        assert best is not None
        return best, tried


def fit(
    model: Model, learning_rate: float, train: Interactions, valid: EvalSet, seed: int, titles: Titles | None = None
) -> Trained:
    """Train until validation NDCG@10 has not risen for `patience` epochs. The same seed gives the same parameters."""
    spec = model.spec
    windows = make_windows(train, spec.max_length)
    key = jax.random.key(seed)
    params = model.init({"params": key}, jnp.full((1, 2), model.n_items), deterministic=True)["params"]
    if titles is not None:
        params = initial(params, titles)
    optimizer = _optimizer(learning_rate, spec.weight_decay)
    state = optimizer.init(params)
    best = Trained(model=model, params=composed(params, titles), ndcg=-1.0, epoch=0, learning_rate=learning_rate)
    order = np.random.default_rng(seed)
    step = 0
    for epoch in range(1, spec.epochs + 1):
        total, n = jnp.zeros(()), 0
        for batch in batches(windows, spec.batch_targets, model.n_items, order):
            params, state, loss = train_step(
                model, learning_rate, params, state, batch, jax.random.fold_in(key, step), titles
            )
            total, n, step = total + loss, n + 1, step + 1
        if not np.isfinite(float(total)):
            raise UserError(
                f"{type(model).__name__} on {valid.name}: loss {float(total)} in epoch {epoch}; lower "
                "sequential.learning_rate"
            )
        trained = Trained(
            model=model, params=composed(params, titles), ndcg=0.0, epoch=epoch, learning_rate=learning_rate
        )
        ndcg = _ndcg(trained, valid)
        mean = float(total) / max(n, 1)
        say(f"{type(model).__name__} on {valid.name}: epoch {epoch}, loss {mean:.3f}, validation NDCG@10 {ndcg:.4f}")
        if ndcg > best.ndcg:
            best = replace(trained, ndcg=ndcg)
        elif epoch - best.epoch >= spec.patience:
            break
    return best


@functools.cache
def _optimizer(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(learning_rate, b2=0.98, weight_decay=weight_decay))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def train_step(
    model: Model,
    learning_rate: float,
    params: Any,
    state: Any,
    items_BT1: jax.Array,
    key: jax.Array,
    titles: Titles | None = None,
) -> tuple[Any, Any, jax.Array]:
    """One step of AdamW on int32[B, T + 1] sequences. Returns new parameters, new optimizer state, and the loss before
    the step."""
    loss, grads = jax.value_and_grad(lambda p: sequence_models.loss(model, composed(p, titles), items_BT1, key))(params)
    updates, state = _optimizer(learning_rate, model.spec.weight_decay).update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def make_windows(train: Interactions, max_length: int) -> list[np.ndarray]:
    """Every sequence of two or more items in pieces of at most max_length + 1, cut from its end; neighbours share one
    item.

    So each item but a sequence's first is a target once.
    """
    windows = []
    for start, stop in zip(train.offsets[:-1], train.offsets[1:], strict=True):
        while stop - start >= 2:
            first = max(start, stop - max_length - 1)
            windows.append(train.items[first:stop])
            stop = first + 1
    if not windows:
        raise UserError("no training sequence has two items; a sequential model has nothing to learn from")
    return windows


def batches(
    windows: list[np.ndarray], batch_targets: int, padding: int, order: np.random.Generator
) -> Iterator[np.ndarray]:
    """One epoch: int32[B, T + 1] with at most `batch_targets` targets, each of windows of like length, in random
    order."""
    targets = np.array([len(window) - 1 for window in windows])
    longest = int(targets.max())
    widths = [*(width for width in WIDTHS if width < longest), longest]
    chosen: list[tuple[int, int, np.ndarray]] = []
    shortest = 0
    for width in widths:
        members = order.permutation(np.flatnonzero((targets > shortest) & (targets <= width)))
        rows = max(batch_targets // (shortest + 1), 1)  # as many as can fit, so that each width is compiled once
        chosen += [(width, rows, piece) for piece in _pieces(members, targets[members], batch_targets)]
        shortest = width
    for number in order.permutation(len(chosen)):
        width, rows, members = chosen[number]
        batch = np.full((rows, width + 1), padding, np.int32)
        for row, member in enumerate(members):
            batch[row, : len(windows[member])] = windows[member]
        yield batch


def _pieces(members: np.ndarray, targets: np.ndarray, most: int) -> list[np.ndarray]:
    """Consecutive members, as many at a time as have at most `most` targets together."""
    ends = np.cumsum(targets)
    pieces, first = [], 0
    while first < len(members):
        before = ends[first] - targets[first]
        stop = max(int(np.searchsorted(ends, before + most, side="right")), first + 1)
        pieces.append(members[first:stop])
        first = stop
    return pieces


@functools.partial(jax.jit, static_argnums=0)
def _last_logits(model: Model, params: Any, items_BT: jax.Array, last_B: jax.Array) -> jax.Array:
    hidden_BTD = model.apply({"params": params}, items_BT, deterministic=True)
    assert isinstance(hidden_BTD, jax.Array)
    return sequence_models.logits(params, hidden_BTD[jnp.arange(len(last_B)), last_B])


def _scores(trained: Trained, data: EvalSet, users: np.ndarray) -> np.ndarray:
    """Logits float64[len(users), N] after the newest `max_length` items; batches are filled up so that few shapes are
    compiled."""
    spec = trained.model.spec
    row, column, age = histories(data, users, spec.max_length)
    lengths = np.bincount(row, minlength=len(users))
    assert lengths.min() > 0, "a corpus refuses records without a history"
    width = next((width for width in WIDTHS if lengths.max() <= width < spec.max_length), spec.max_length)
    items_BT = np.full((1 << (len(users) - 1).bit_length(), width), trained.model.n_items, np.int32)
    items_BT[row, lengths[row] - 1 - age] = column
    last_B = np.zeros(len(items_BT), np.int32)
    last_B[: len(users)] = lengths - 1
    return np.asarray(_last_logits(trained.model, trained.params, items_BT, last_B), np.float64)[: len(users)]


def _ndcg(trained: Trained, data: EvalSet) -> float:
    total = 0.0
    for users in user_batches(len(data)):
        ranks = rank(_scores(trained, data, users), data.target[users], data.excluded(users))
        total += float(per_user(ranks.n_better, ranks.n_tied)["ndcg@10"].sum())
    return total / len(data)


def _fit_temperature(trained: Trained, data: EvalSet, grid: tuple[float, ...]) -> tuple[float, dict[str, float]]:
    """The temperature with the lowest validation NLL, and the NLL of each."""
    nll = np.zeros(len(grid))
    for users in user_batches(len(data)):
        scores = _scores(trained, data, users)
        for index, temperature in enumerate(grid):
            nll[index] -= log_softmax(scores / temperature, axis=1)[np.arange(len(users)), data.target[users]].sum()
    nll /= len(data)
    return grid[int(np.argmin(nll))], {str(t): float(value) for t, value in zip(grid, nll, strict=True)}
