"""What a step needs on one TPU v5e chip, by the compiler: Qwen2.5-0.5B's shape, in full and as an adapter (needs
libtpu, no TPU)."""

import functools
import importlib.util
import os
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from cprec_jax.config.lora import LoraSpec
from cprec_jax.config.train import OptimizerSpec
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, abstract_params
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.train.leaves import by_name, split
from cprec_jax.train.lora import adapters_of, base_names, dtype_as_read
from cprec_jax.train.objectives.cpt import Cpt
from cprec_jax.train.optimizer import make_optimizer
from cprec_jax.train.state import TrainState
from cprec_jax.train.step import train_step

pytestmark = [pytest.mark.slow, pytest.mark.tpu]

B, T = 4, 1024
QWEN = DecoderConfig(
    model_type="qwen2",
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_layers=24,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    attention_bias=True,
)


def chip(monkeypatch: pytest.MonkeyPatch) -> jax.sharding.Mesh:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    from jax.experimental import topologies

    for name in ("ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_SKIP_MDS_QUERY"):
        monkeypatch.setitem(os.environ, name, "1")
    described = topologies.get_topology_desc("v5e:1x1", platform="tpu", chips_per_host_bounds=(1, 1, 1))
    return make_mesh(devices=described.devices)


def step_bytes(mesh: jax.sharding.Mesh, lora: LoraSpec | None) -> dict[str, int]:
    """Bytes on the device: what goes in (parameters, moments, base, batch), what is held in between, and both."""
    adapters = None if lora is None else adapters_of(lora, QWEN)
    decoder = Decoder(QWEN, dtype=jnp.bfloat16, remat="full", adapters=adapters)
    shapes, axes = abstract_params(decoder)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    trained, frozen = split(shapes, () if lora is None else base_names(shapes))
    frozen = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.ShapeDtypeStruct(
            leaf.shape, dtype_as_read(path[-1].key, leaf.dtype, jnp.dtype("bfloat16"))
        ),
        frozen,
    )
    own_axes = by_name(axes, is_leaf=lambda one: isinstance(one, tuple))
    optimizer = make_optimizer(
        OptimizerSpec(), optax.constant_schedule(1e-4), {name: own_axes[name] for name in by_name(trained)}
    )
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32), trained=trained, opt_state=jax.eval_shape(optimizer.init, trained)
    )
    batch = {name: jax.ShapeDtypeStruct((B, T), jnp.int32) for name in ("tokens", "segment_ids", "positions")}
    batch["loss_mask"] = jax.ShapeDtypeStruct((B, T), jnp.float32)
    pure: Any = functools.partial(
        train_step,
        objective=Cpt(decoder=decoder, loss_chunk=128),
        optimizer=optimizer,
        schedule=optax.constant_schedule(1e-4),
        micro_batches=1,
        dropout_seed=None,
    )
    step = jax.jit(pure, in_shardings=whole, out_shardings=whole, donate_argnums=0)
    options = {"exec_time_optimization_effort": -1.0}
    found = step.lower(state, frozen, batch).compile(compiler_options=options).memory_analysis()
    total = (
        found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    )
    return {"in": found.argument_size_in_bytes, "between": found.temp_size_in_bytes, "all": total}


def test_an_adapter_needs_less_than_half_of_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = chip(monkeypatch)
    adapter, full = step_bytes(mesh, LoraSpec(rank=32)), step_bytes(mesh, None)
    print({"adapter": adapter, "full": full})
    assert adapter["all"] < full["all"] / 2
    head = 4 * QWEN.vocab_size * QWEN.hidden_size
    assert adapter["between"] < full["between"] - head, "nothing of the size of the head's gradient is held"
