"""One training step from made-up parameters and rows (numpy's generator, the same everywhere), to 1e-6."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cprec_jax.config.train import OptimizerSpec, ScheduleSpec
from cprec_jax.train.objectives.cpt import Cpt
from cprec_jax.train.optimizer import adamw
from cprec_jax.train.schedule import wsa
from cprec_jax.train.state import TrainState
from cprec_jax.train.step import train_step
from tests.golden.values import check
from tests.model.tiny import tiny

B, T, V = 8, 32, 64
CASES: dict[str, dict[str, Any]] = {
    "one step, untied head, biases, norms of q and k": {
        "model": {"tie_embeddings": False, "attention_bias": True, "qk_norm": "head"}
    },
    "one step, dropout, 4 micro-batches": {"dropout": 0.1, "micro_batches": 4},
}


def made_batch() -> dict[str, jax.Array]:
    """Two documents and padding a row, of uneven lengths; some tokens are no targets."""
    rng = np.random.default_rng(7)
    ends = np.sort(rng.integers(4, T + 1, (B, 2)), axis=1)
    t = np.arange(T)
    segments = np.where(t < ends[:, :1], 1, np.where(t < ends[:, 1:], 2, 0))
    positions = np.where(segments == 2, t - ends[:, :1], np.where(segments == 1, t, 0))
    batch = {
        "tokens": rng.integers(0, V, (B, T)).astype(np.int32),
        "segment_ids": segments.astype(np.int32),
        "positions": positions.astype(np.int32),
        "loss_mask": (rng.random((B, T)) < 0.9).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, batch)


@pytest.mark.parametrize("name", CASES)
def test_one_step(name: str) -> None:
    """From step 2 of a warm-up of 5 and moments that are not zero; the gradient is clipped, matrices decay."""
    case = CASES[name]
    decoder, params = tiny(3, num_layers=2, **case.get("model", {}))
    decoder = decoder.clone(dropout=case.get("dropout", 0.0))
    schedule = wsa(ScheduleSpec(peak=0.01, warmup=0.25, anneal=0.25), 20)
    optimizer = adamw(OptimizerSpec(clip_norm=0.5), schedule)
    step = functools.partial(
        train_step,
        objective=Cpt(decoder=decoder, loss_chunk=16),
        optimizer=optimizer,
        schedule=schedule,
        micro_batches=case.get("micro_batches", 1),
        dropout_seed=5 if decoder.dropout else None,
    )
    # moments and count of a run at its third step
    opt_state = optax.tree_map_params(optimizer, lambda moment: jnp.full_like(moment, 1e-3), optimizer.init(params))
    opt_state = jax.tree.map(lambda leaf: leaf + 2 if leaf.dtype == jnp.int32 else leaf, opt_state)
    state = TrainState(step=jnp.full((), 2, jnp.int32), trained=params, opt_state=opt_state)
    after, metrics = jax.jit(step)(state, {}, made_batch())
    moved = jax.tree.map(jnp.subtract, after.trained, params)
    numbers = {
        "loss": metrics["loss"],
        "grad_norm": metrics["grad_norm"],
        "lr": metrics["lr"],
        "param_norm": optax.global_norm(after.trained),
        "update_norm": optax.global_norm(moved),
    }
    check(name, {key: float(value) for key, value in numbers.items()}, relative=1e-6)
