"""What a checkpoint holds, and what is refused instead of being cast."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.config.train import OptimizerSpec
from cprec_jax.errors import UserError
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.optimizer import adamw
from cprec_jax.train.state import TrainState
from tests.model.tiny import tiny


@pytest.fixture(scope="module")
def state() -> TrainState:
    """A state whose moments and counts are not those of a new one."""
    _, params = tiny(num_layers=2)
    opt_state = adamw(OptimizerSpec(), lambda _: 0.1).init(params)
    rng = np.random.default_rng(1)
    opt_state = jax.tree.map(lambda leaf: jnp.asarray(rng.integers(1, 9, leaf.shape), leaf.dtype), opt_state)
    return TrainState(step=jnp.full((), 7, jnp.int32), trained=params, opt_state=opt_state)


def abstract(state: TrainState) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def saved(directory: Path, state: TrainState) -> Checkpoints:
    checkpoints = Checkpoints(directory)
    checkpoints.save(state, {"tokens": 5, "seconds": 1.0})
    checkpoints.close()
    return Checkpoints(directory)


def lowered(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf, tree)


def test_everything_comes_back(state: TrainState, tmp_path: Path) -> None:
    restored = saved(tmp_path, state).restore_newest(abstract(state))
    assert restored is not None
    found, meta = restored
    assert meta == {"tokens": 5, "seconds": 1.0}
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("item", ["params", "opt_state"])
def test_another_dtype_is_refused(state: TrainState, tmp_path: Path, item: str) -> None:
    field = "trained" if item == "params" else item
    checkpoints = saved(tmp_path, state.replace(**{field: lowered(getattr(state, field))}))
    with pytest.raises(
        UserError, match=f"7: {item}/.* is .*bfloat16.* in the checkpoint and .*float32.* by the config"
    ):
        checkpoints.restore_newest(abstract(state))
    if item == "params":
        with pytest.raises(UserError, match="bfloat16"):
            checkpoints.restore_params(abstract(state).trained)


def test_what_is_saved_is_float32(state: TrainState, tmp_path: Path) -> None:
    """Read as it is on disk, not as a model asks for it."""
    checkpoints = saved(tmp_path, state)
    for item in ("params", "opt_state"):
        tree = checkpoints._manager.item_metadata(7)[item].tree
        kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}
        assert kinds == ({"float32"} if item == "params" else {"float32", "int32"})
