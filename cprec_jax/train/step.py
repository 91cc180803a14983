"""The train step: a pure function, jitted once with its shardings, the state donated."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

LossSum = Callable[[Any, Mapping[str, jax.Array], jax.Array | None], tuple[jax.Array, jax.Array]]


@flax.struct.dataclass
class TrainState:
    """Everything a run needs besides its rows: the number of steps done, float32 master parameters and the optimizer's state."""

    step: jax.Array
    params: Any
    opt_state: Any


def train_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    *,
    loss_sum: LossSum,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    micro_batches: int,
    dropout_seed: int | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step on one global batch.

    Sums of losses and of weights are accumulated over `micro_batches` and divided once by the global weight, so uneven masks do not
    bias the gradient. Micro-batch i holds rows i, i + `micro_batches`, ... of the batch.
    Metrics: loss (nats a token), tokens (targets), padding_free (non-padding tokens), lr, grad_norm.
    """
    key = None if dropout_seed is None else jax.random.fold_in(jax.random.key(dropout_seed), state.step)
    grad = jax.value_and_grad(loss_sum, has_aux=True)
    if micro_batches == 1:
        (loss, weight), grads = grad(state.params, batch, key)
    else:
        pieces = jax.tree.map(functools.partial(_micro_batches, count=micro_batches), dict(batch))
        zero = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))

        def accumulate(carry: Any, numbered: Any) -> tuple[Any, None]:
            number, piece = numbered
            piece_key = None if key is None else jax.random.fold_in(key, number)
            (loss, weight), grads = grad(state.params, piece, piece_key)
            return (carry[0] + loss, carry[1] + weight, jax.tree.map(jnp.add, carry[2], grads)), None

        (loss, weight, grads), _ = jax.lax.scan(accumulate, zero, (jnp.arange(micro_batches), pieces))
    scale = 1.0 / jnp.maximum(weight, 1.0)
    grads = jax.tree.map(lambda g: g * scale, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {
        "loss": loss * scale,
        "tokens": weight,
        "padding_free": jnp.sum((batch["segment_ids"] > 0).astype(jnp.float32)),
        "lr": schedule(state.step),
        "grad_norm": optax.global_norm(grads),
    }
    return TrainState(step=state.step + 1, params=optax.apply_updates(state.params, updates), opt_state=opt_state), metrics


def _micro_batches(rows: jax.Array, count: int) -> jax.Array:
    """[B, ...] -> [count, B / count, ...]. Strided, because each device holds a block of rows: a contiguous micro-batch would be the rows
    of some devices only, to be sent to the others at every one."""
    return jnp.moveaxis(rows.reshape(rows.shape[0] // count, count, *rows.shape[1:]), 1, 0)
