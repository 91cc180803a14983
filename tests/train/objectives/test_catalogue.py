"""The objective: its terms and weights, micro-batches, devices, and that it is what `evaluate` reports."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cprec_jax.model.decoder import Decoder, abstract_params
from cprec_jax.parallel import rules
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.rows.dataset import expand
from cprec_jax.train.catalogue_rows import capacities
from cprec_jax.train.catalogue_tables import build_tables
from cprec_jax.train.objectives.catalogue import CatalogueLikelihood
from cprec_jax.train.objectives.cpt import Cpt
from cprec_jax.train.state import TrainState
from cprec_jax.train.step import train_step
from tests.inference.titles import random_titles
from tests.model.tiny import tiny
from tests.train.catalogues import catalogue_of, stored_row

B, T = 8, 64
CATALOGUE = catalogue_of(random_titles(0, 60, tokens=5))
TABLES = build_tables(CATALOGUE, {"a": np.arange(30), "b": np.arange(30, 60)}, narrow=3)
ROWS = [stored_row(CATALOGUE, [[row, row + 30, 59], [2 * row] * (row % 3 + 1)], T) for row in range(B)]  # uneven
ROOM = capacities(TABLES, ROWS)


def objective(decoder: Decoder, **changes: Any) -> CatalogueLikelihood:
    made = CatalogueLikelihood(
        decoder=decoder, loss_chunk=16, lm_weight=0.0, loss_temperature=1.0, tables=TABLES, capacities=ROOM
    )
    return dataclasses.replace(made, **changes)


def batch_of(loss: CatalogueLikelihood, rows: list[dict[str, Any]] = ROWS) -> dict[str, jax.Array]:
    made = [expand(row) | loss.row_columns(row) for row in rows]
    return {name: jnp.stack([row[name] for row in made]) for name in loss.columns}


def step_of(loss: CatalogueLikelihood, micro_batches: int = 1) -> Any:
    optimizer = optax.sgd(0.1)
    step = functools.partial(
        train_step,
        objective=loss,
        optimizer=optimizer,
        schedule=lambda step: 0.1,
        micro_batches=micro_batches,
        dropout_seed=None,
    )
    return step, lambda params: TrainState(
        step=jnp.zeros((), jnp.int32), trained=params, opt_state=optimizer.init(params)
    )


def test_terms_and_weights() -> None:
    decoder, params = tiny(num_layers=1)
    batch = batch_of(objective(decoder))
    items = sum(3 + row % 3 + 1 for row in range(B))
    alone, both = objective(decoder), objective(decoder, lm_weight=0.5)
    assert alone.terms == ("item_nll",) and both.terms == ("item_nll", "token_nll")
    sums = jax.jit(lambda params, batch: both.sums(params, batch, None))(params, batch)
    cpt = Cpt(decoder=decoder, loss_chunk=16)
    assert float(sums["token_nll"]) == pytest.approx(0.5 * float(cpt.sums(params, batch, None)["token_nll"]), rel=1e-6)
    assert float(jax.jit(lambda p, b: alone.sums(p, b, None))(params, batch)["item_nll"]) == pytest.approx(
        float(sums["item_nll"]), rel=1e-6
    )
    assert jax.tree.map(float, both.weights(batch)) == {"item_nll": items, **jax.tree.map(float, cpt.weights(batch))}
    assert jax.tree.map(float, alone.weights(batch)) == {"item_nll": items}
    assert jax.tree.map(float, alone.counts(batch)) == {"items": items, **jax.tree.map(float, cpt.counts(batch))}


def test_the_loss_is_the_sum_of_its_terms_each_by_its_own_weight() -> None:
    decoder, params = tiny(num_layers=1)
    both = objective(decoder, lm_weight=0.5)
    step, new = step_of(both)
    batch = batch_of(both)
    _, metrics = jax.jit(step)(new(params), {}, batch)
    sums, weights = both.sums(params, batch, None), both.weights(batch)
    assert float(metrics["loss"]) == pytest.approx(
        sum(float(sums[name] / weights[name]) for name in both.terms), rel=1e-5
    )


@pytest.mark.parametrize("lm_weight", [0.0, 0.5])
def test_micro_batches_give_the_same_step(lm_weight: float) -> None:
    decoder, params = tiny(num_layers=1)
    loss = objective(decoder, lm_weight=lm_weight, loss_temperature=(2.0, 1.0))
    states, metrics = [], []
    for micro_batches in (1, 2):
        step, new = step_of(loss, micro_batches)
        state, found = jax.jit(step)(new(params), {}, batch_of(loss))
        states.append(state.trained), metrics.append(found)
    assert float(metrics[0]["loss"]) == pytest.approx(float(metrics[1]["loss"]), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *states)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 4}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_eight_devices_give_the_step_of_one(sizes: dict[str, int]) -> None:
    decoder, params = tiny(num_layers=1)
    for temperature in (1.0, "adaptive"):
        loss = objective(decoder, lm_weight=0.5, loss_temperature=temperature)
        step, new = step_of(loss)
        batch = batch_of(loss)
        one, one_metrics = jax.jit(step)(new(params), {}, batch)
        mesh = make_mesh(**sizes)
        with jax.set_mesh(mesh):
            shardings = rules.param_shardings(mesh, *abstract_params(decoder))
            state = new(jax.device_put(params, shardings))
            many, metrics = jax.jit(step)(state, {}, jax.device_put(batch, rules.batch_sharding(mesh, B)))
        assert float(metrics["loss"]) == pytest.approx(float(one_metrics["loss"]), rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), many.trained, one.trained)
