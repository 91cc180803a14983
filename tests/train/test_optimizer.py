"""The optimizer: what decays, what the rate of a step is, what its state is."""

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.config.train import OptimizerSpec, ScheduleSpec
from cprec_jax.train.optimizer import adamw
from cprec_jax.train.schedule import wsa
from tests.model.tiny import tiny


def test_only_matrices_shrink_where_there_is_no_gradient() -> None:
    _, params = tiny(attention_bias=True, qk_norm="head")
    spec = OptimizerSpec(weight_decay=0.5)
    optimizer = adamw(spec, lambda _: 0.1)
    updates, _ = jax.jit(optimizer.update)(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    shrunk = set()
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        before = dict(jax.tree_util.tree_leaves_with_path(params))[path]
        name = path[-1].key
        if bool(jnp.any(update != 0)):
            np.testing.assert_allclose(update, -0.1 * 0.5 * before, rtol=1e-5)
            shrunk.add(name)
        else:
            assert name.endswith(("norm", "bias")), name
    assert shrunk == {"embed", "q", "k", "v", "o", "gate", "up", "down"}


def test_a_step_has_the_rate_of_its_number() -> None:
    """Under a gradient that stays the same, Adam moves by the learning rate: that of step 0 first."""
    schedule = wsa(ScheduleSpec(peak=0.01, warmup=0.5, anneal=0.25, shape="linear"), 8)
    optimizer = adamw(OptimizerSpec(weight_decay=0.0), schedule)
    params = {"w": jnp.zeros(())}
    state = optimizer.init(params)
    moved = []
    for _ in range(8):
        updates, state = optimizer.update({"w": jnp.ones(())}, state, params)
        moved.append(-float(updates["w"]))
    np.testing.assert_allclose(moved, [float(schedule(step)) for step in range(8)], rtol=1e-4)
    np.testing.assert_allclose(moved, 0.01 * np.array([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.5]), rtol=1e-4)
