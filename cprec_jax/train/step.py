"""The train step: a pure function, which the trainer jits once with its shardings and the state donated."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cprec_jax.train.leaves import merge
from cprec_jax.train.objectives.objective import Objective
from cprec_jax.train.state import TrainState


def train_step(
    state: TrainState,
    frozen: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    micro_batches: int,
    dropout_seed: int | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step of the trained leaves on one global batch. Returns the new state and metrics.

    Sums of losses are accumulated over micro-batches and divided once by the weight of the global batch, so uneven
    masks do not bias the gradient. Micro-batch i holds rows i, i + `micro_batches`, ... of the batch.

    Args:
      frozen: leaves that are read and not changed.
      batch: the objective's columns, [B, ...] each.
      schedule: the optimizer's learning rate, for the metrics.
      dropout_seed: None: no dropout.

    Metrics, float scalars: loss, lr, grad_norm (before clipping), the objective's counts, and where the objective has
    several sums, each by its name.
    """
    key = None if dropout_seed is None else jax.random.fold_in(jax.random.key(dropout_seed), state.step)
    weights = {name: jnp.maximum(weight, 1.0) for name, weight in objective.weights(batch).items()}
    grad = jax.value_and_grad(
        functools.partial(_loss, frozen=frozen, objective=objective, weights=weights), has_aux=True
    )
    if micro_batches == 1:
        (loss, sums), grads = grad(state.trained, batch=batch, key=key)
    else:
        pieces = jax.tree.map(functools.partial(_micro_batches, count=micro_batches), dict(batch))
        zero_sums = {name: jnp.zeros(()) for name in weights}
        zero = (jnp.zeros(()), zero_sums, jax.tree.map(jnp.zeros_like, state.trained))

        def accumulate(carry: Any, numbered: Any) -> tuple[Any, None]:
            number, piece = numbered
            piece_key = None if key is None else jax.random.fold_in(key, number)
            (loss, sums), grads = grad(state.trained, batch=piece, key=piece_key)
            return jax.tree.map(jnp.add, carry, (loss, sums, grads)), None

        (loss, sums, grads), _ = jax.lax.scan(accumulate, zero, (jnp.arange(micro_batches), pieces))
    scale = 1.0 / weights[objective.terms[0]]
    grads = jax.tree.map(lambda g: g * scale, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trained)
    metrics = {
        **objective.counts(batch),
        **({} if len(sums) == 1 else {name: total / weights[name] for name, total in sums.items()}),
        "loss": loss * scale,
        "lr": schedule(state.step),
        "grad_norm": optax.global_norm(grads),
    }
    return TrainState(
        step=state.step + 1, trained=optax.apply_updates(state.trained, updates), opt_state=opt_state
    ), metrics


def _loss(
    trained: Any,
    *,
    frozen: Any,
    objective: Objective,
    weights: Mapping[str, jax.Array],
    batch: Mapping[str, jax.Array],
    key: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of some rows times the weight of the first term, and the rows' part of each of the objective's sums.

    The gradient is that of a sum, not of a mean, so that its parts do not depend on the size of the batch.
    """
    sums = objective.sums(merge(trained, frozen), batch, key)
    assert sums.keys() == weights.keys() >= set(objective.terms), (sums.keys(), weights.keys(), objective.terms)
    first, *others = objective.terms
    loss = sums[first]
    for name in others:
        loss = loss + sums[name] * (weights[first] / weights[name])
    return loss, sums


def _micro_batches(rows: jax.Array, count: int) -> jax.Array:
    """[B, ...] -> [count, B / count, ...], strided: micro-batch i holds rows i, i + count, ...

    Each device holds a block of rows. A contiguous micro-batch would be the rows of a few devices, and would have to be
    sent to the others.
    """
    return jnp.moveaxis(rows.reshape(rows.shape[0] // count, count, *rows.shape[1:]), 1, 0)
