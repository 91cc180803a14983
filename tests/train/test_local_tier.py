"""The near tier gives back every bit, or says why not and goes to an older step."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.train.local_tier import LocalTier
from cprec_jax.train.state import TrainState, abstract

META = {"tokens": 7, "seconds": 1.5}


def state(step: int, mesh: jax.sharding.Mesh) -> TrainState:
    """Leaves that are sharded, replicated, scalar, and of other dtypes."""
    sharded, whole = NamedSharding(mesh, PartitionSpec("fsdp", "tensor")), NamedSharding(mesh, PartitionSpec())
    key = jax.random.key(step)
    trained = {
        "w": jax.device_put(jax.random.normal(key, (8, 8)), sharded),
        "b": jax.device_put(jax.random.normal(key, (6,), jnp.bfloat16), whole),
    }
    moments: Any = (jax.device_put(jnp.int32(step), whole), {"w": jax.device_put(jnp.ones((8, 8)) * step, sharded)})
    return TrainState(step=jax.device_put(jnp.int32(step), whole), trained=trained, opt_state=moments)


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
    return make_mesh(1, 4, 2)


@pytest.fixture
def tier(tmp_path: Path) -> LocalTier:
    return LocalTier(tmp_path / "near", tmp_path / "run", "inputs")


def files(tmp_path: Path) -> dict[int, Path]:
    return {int(path.parent.name): path for path in (tmp_path / "near").glob("*/*/*")}


def assert_same(one: TrainState, other: TrainState) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.sharding == b.sharding and a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_newest_comes_back_bit_by_bit_and_two_stay(
    tier: LocalTier, mesh: jax.sharding.Mesh, tmp_path: Path
) -> None:
    for step in (20, 40, 60):
        tier.save(state(step, mesh), META)
    assert sorted(files(tmp_path)) == [40, 60]
    found = tier.restore_newest(abstract(state(0, mesh)), above=10)
    assert found is not None and found[1] == META
    assert_same(found[0], state(60, mesh))


@pytest.mark.parametrize("damage", ["a byte", "cut", "empty"])
def test_a_damaged_file_is_said_and_the_one_before_taken(
    tier: LocalTier, mesh: jax.sharding.Mesh, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (20, 40):
        tier.save(state(step, mesh), META)
    path = files(tmp_path)[40]
    data = path.read_bytes()
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    path.write_bytes({"a byte": bytes(changed), "cut": data[:-100], "empty": b""}[damage])
    found = tier.restore_newest(abstract(state(0, mesh)), above=0)
    assert found is not None
    assert_same(found[0], state(20, mesh))
    assert "40 cannot be used" in capsys.readouterr().err


def test_steps_that_the_durable_tier_has_too_are_not_asked_for(tier: LocalTier, mesh: jax.sharding.Mesh) -> None:
    tier.save(state(20, mesh), META)
    assert tier.restore_newest(abstract(state(0, mesh)), above=20) is None


def test_another_mesh_and_another_model_go_to_the_durable_tier(tier: LocalTier, mesh: jax.sharding.Mesh) -> None:
    saved = state(20, mesh)
    tier.save(saved, META)
    assert tier.restore_newest(abstract(state(0, make_mesh(1, 2, 4))), above=0) is None
    more = TrainState(step=saved.step, trained={**saved.trained, "new": saved.trained["b"]}, opt_state=saved.opt_state)
    assert tier.restore_newest(abstract(more), above=0) is None


def test_another_run_and_other_inputs_have_their_own(tier: LocalTier, mesh: jax.sharding.Mesh, tmp_path: Path) -> None:
    tier.save(state(20, mesh), META)
    for run, inputs in (("other", "inputs"), ("run", "other")):
        assert (
            LocalTier(tmp_path / "near", tmp_path / run, inputs).restore_newest(abstract(state(0, mesh)), above=0)
            is None
        )
    tier.clear()
    assert files(tmp_path) == {}
