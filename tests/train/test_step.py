"""The train step: micro-batches, sharding and the optimizer change nothing that they should not."""

import functools
import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cprec_jax.config.model import ModelSpec
from cprec_jax.config.train import OptimizerSpec, ScheduleSpec
from cprec_jax.model.decoder import Decoder, abstract_params, init_params
from cprec_jax.parallel import rules
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.train.description import decoder_config, make_decoder
from cprec_jax.train.objectives.cpt import Cpt
from cprec_jax.train.optimizer import adamw, decayed
from cprec_jax.train.schedule import wsa
from cprec_jax.train.state import TrainState
from cprec_jax.train.step import _micro_batches, train_step

B, T, V = 8, 32, 64


def decoder_of(dropout: float = 0.0) -> Decoder:
    spec = ModelSpec(hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, num_kv_heads=2, dropout=dropout)
    return make_decoder(spec, decoder_config(spec, V))


def make_batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    segments = np.repeat([[1] * 10 + [2] * 15 + [0] * 7], B, axis=0).astype(np.int32)
    segments[3:, 20:] = 0  # uneven rows: the classic bug is dividing by each micro-batch's own weight
    positions = np.repeat([[*range(10), *range(15), *range(7)]], B, axis=0).astype(np.int32)
    tokens = rng.integers(0, V, (B, T)).astype(np.int32)
    made = {"tokens": tokens, "segment_ids": segments, "positions": positions, "loss_mask": np.ones((B, T), np.float32)}
    return {name: jnp.asarray(value) for name, value in made.items()}


SCHEDULE = wsa(ScheduleSpec(peak=0.01, warmup=0.0), 100)
OPTIMIZER = adamw(OptimizerSpec(), SCHEDULE)


@functools.cache
def compiled(micro_batches: int, dropout: float) -> Any:
    """The step of every test on one device, and the parameters it begins with."""
    decoder = decoder_of(dropout)

    step = functools.partial(
        train_step,
        objective=Cpt(decoder=decoder, loss_chunk=16),
        optimizer=OPTIMIZER,
        schedule=SCHEDULE,
        micro_batches=micro_batches,
        dropout_seed=0 if dropout else None,
    )
    return jax.jit(step), new_params()


@functools.cache
def new_params() -> Any:
    return init_params(decoder_of(), jax.random.key(1))


def one_step(
    micro_batches: int = 1, dropout: float = 0.0, steps: int = 1, first: int = 0
) -> tuple[TrainState, dict[str, Any]]:
    step, params = compiled(micro_batches, dropout)
    state = TrainState(step=jnp.full((), first, jnp.int32), trained=params, opt_state=OPTIMIZER.init(params))
    for _ in range(steps):
        state, metrics = step(state, {}, make_batch())
    return state, metrics


def test_micro_batches_give_the_same_step() -> None:
    whole, whole_metrics = one_step(1)
    parts, parts_metrics = one_step(4)
    assert float(parts_metrics["loss"]) == pytest.approx(float(whole_metrics["loss"]), rel=1e-6)
    assert float(parts_metrics["tokens"]) == float(whole_metrics["tokens"]) == 3 * 23 + 5 * 18
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), parts.trained, whole.trained)


def test_micro_batches_are_strided() -> None:
    rows = jnp.arange(24).reshape(8, 3)
    pieces = _micro_batches(rows, 4)
    assert pieces.shape == (4, 2, 3)
    for number in range(4):
        np.testing.assert_array_equal(pieces[number], rows[number::4])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 4}])
def test_micro_batches_need_no_collectives_of_their_own(sizes: dict[str, int]) -> None:
    """Rows stay on their devices (contiguous ones cost seven all-gathers and eleven permutes here). The one all-reduce
    more is that of the number of tokens, which the compiler joins with another one where there is no loop."""
    more = collectives(sizes, micro_batches=2) - collectives(sizes, micro_batches=1)
    assert more <= Counter({"all-reduce": 1})


def collectives(sizes: dict[str, int], micro_batches: int) -> Counter[str]:
    """How often each kind of collective stands in the compiled step on a mesh of 8 devices."""
    mesh = make_mesh(**sizes)
    decoder = decoder_of()
    rows = {name: jnp.concatenate([value, value]) for name, value in make_batch().items()}
    with jax.set_mesh(mesh):
        shardings = rules.param_shardings(mesh, *abstract_params(decoder))
        params = jax.device_put(new_params(), shardings)
        state = TrainState(step=jnp.zeros((), jnp.int32), trained=params, opt_state=OPTIMIZER.init(params))
        batch = jax.device_put(rows, rules.batch_sharding(mesh, 2 * B))
        step = functools.partial(
            train_step,
            objective=Cpt(decoder=decoder, loss_chunk=16),
            optimizer=OPTIMIZER,
            schedule=SCHEDULE,
            micro_batches=micro_batches,
            dropout_seed=None,
        )
        text = jax.jit(step).lower(state, {}, batch).compile().as_text()
    return Counter(
        re.findall(r"\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text)
    )


def test_the_loss_falls_and_starts_at_the_uniform_one() -> None:
    _, first = one_step()
    _, last = one_step(steps=40)
    assert abs(float(first["loss"]) - np.log(V)) < 0.1
    assert float(last["loss"]) < 0.5 * float(first["loss"])


def test_dropout_changes_with_the_step_and_repeats_with_the_seed() -> None:
    _, a = one_step(dropout=0.3)
    _, b = one_step(dropout=0.3)
    _, without = one_step()
    assert float(a["loss"]) == float(b["loss"]) != float(without["loss"])
    _, later = one_step(dropout=0.3, first=1)  # the same parameters and rows at another step
    assert float(later["loss"]) not in (float(a["loss"]), float(without["loss"]))


def test_each_micro_batch_has_a_dropout_of_its_own() -> None:
    """Two steps of four: eight keys, no two alike."""
    keys: list[Any] = []

    class Noise:
        columns, terms = (), ("noise",)

        def weights(self, batch: Any) -> dict[str, Any]:
            return {"noise": jnp.ones(())}

        def sums(self, params: Any, batch: Any, key: Any) -> dict[str, Any]:
            noise = jax.random.uniform(key)
            jax.debug.callback(lambda value: keys.append(float(value)), noise)
            return {"noise": noise * jnp.sum(params["w"])}

        def counts(self, batch: Any) -> dict[str, Any]:
            return {}

    params = {"w": jnp.ones(3)}
    optimizer = optax.sgd(0.1)
    for step in range(2):
        state = TrainState(step=jnp.full((), step, jnp.int32), trained=params, opt_state=optimizer.init(params))
        rate = lambda _: 0.1  # noqa: E731
        step_of = functools.partial(
            train_step, objective=Noise(), optimizer=optimizer, schedule=rate, micro_batches=4, dropout_seed=3
        )
        made = step_of(state, {}, make_batch())
        jax.block_until_ready(made)
    jax.effects_barrier()
    assert len(keys) == len(set(keys)) == 8


def test_only_matrices_are_decayed() -> None:
    decoder = decoder_of()
    flags = decayed(abstract_params(decoder)[0])
    named = {jax.tree_util.keystr(path): flag for path, flag in jax.tree_util.tree_leaves_with_path(flags)}
    assert all(flag != ("norm" in name) for name, flag in named.items())
    assert sum(named.values()) == 8  # embedding, q, k, v, o, gate, up, down


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 4}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_a_sharded_step_equals_the_unsharded_one(sizes: dict[str, int]) -> None:
    expected, _ = one_step()
    mesh = make_mesh(**sizes)
    decoder = decoder_of()
    with jax.set_mesh(mesh):
        shardings = rules.param_shardings(mesh, *abstract_params(decoder))
        params = jax.device_put(new_params(), shardings)
        state = TrainState(step=jnp.zeros((), jnp.int32), trained=params, opt_state=OPTIMIZER.init(params))
        rows = make_batch()
        batch = jax.device_put(rows, rules.batch_sharding(mesh, len(rows["tokens"])))
        step = functools.partial(
            train_step,
            objective=Cpt(decoder=decoder, loss_chunk=16),
            optimizer=OPTIMIZER,
            schedule=SCHEDULE,
            micro_batches=1,
            dropout_seed=None,
        )
        found, _ = jax.jit(step)(state, {}, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        jax.device_get(found.trained),
        jax.device_get(expected.trained),
    )
