import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cprec_jax.model.decoder import abstract_params, init_params, logits
from cprec_jax.parallel import rules
from cprec_jax.parallel.mesh import make_mesh
from tests.model.tiny import one_segment, tiny

MESHES = [(8, 1, 1), (2, 2, 2), (1, 2, 4)]


def loss_and_gradients(decoder, params, inputs):
    def loss(params):
        scores = logits(params, decoder.config, decoder.apply({"params": params}, *inputs))
        return -jnp.take_along_axis(jax.nn.log_softmax(scores), inputs[0][..., None], -1).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.slow
@pytest.mark.parametrize("shape", MESHES)
def test_sharded_equals_unsharded(shape):
    decoder, params = tiny(num_layers=2)
    inputs = one_segment(np.random.default_rng(0).integers(0, 64, size=(8, 24)))
    expected = loss_and_gradients(decoder, params, inputs)
    mesh = make_mesh(*shape)
    shardings = rules.param_shardings(mesh, *abstract_params(decoder))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, shardings)
        batch = jax.device_put(inputs, rules.batch_sharding(mesh, len(inputs[0])))
        got = loss_and_gradients(decoder, sharded, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)


def test_parameters_are_made_in_their_shards():
    decoder, _ = tiny()
    params = jax.jit(lambda key: init_params(decoder, key))(jax.random.key(0))
    mesh = make_mesh(2, 2, 2)
    shardings = rules.param_shardings(mesh, *abstract_params(decoder))
    with jax.set_mesh(mesh):
        sharded = jax.jit(lambda key: init_params(decoder, key), out_shardings=shardings)(jax.random.key(0))
    q = sharded["layers"]["attention"]["q"]
    assert q.sharding.spec == P(None, "fsdp", "tensor") or q.sharding.spec == P(None, "fsdp", "tensor", None)
    assert q.addressable_shards[0].data.shape == (3, 16, 2, 8)
    # the same numbers on any mesh
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), sharded, params)


def test_the_axis_that_does_not_divide_is_dropped_with_one_warning(capsys):
    rules._warn_once.cache_clear()
    mesh = make_mesh(1, 2, 4)
    for _ in range(2):
        assert rules.spec_for(("embed", "kv_heads", "head_dim"), (32, 2, 8), mesh) == P("fsdp", None, None)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "'kv_heads' of size 2" in lines[0] and "4 devices" in lines[0] and "'tensor'" in lines[0]


def test_batch_over_two_mesh_axes_and_partly():
    mesh = make_mesh(2, 4, 1)
    assert rules.spec_for(("batch", "length"), (8, 16), mesh) == P(("data", "fsdp"), None)
    assert rules.spec_for(("batch", "length"), (2, 16), mesh) == P("data", None)


def test_one_mesh_axis_twice_is_a_bug():
    with pytest.raises(AssertionError, match="twice"):
        rules.spec_for(("heads", "mlp"), (8, 8), make_mesh(1, 1, 8))


def test_activations_are_pinned_under_a_mesh():
    with jax.set_mesh(make_mesh(2, 2, 2)):
        spec = jax.jit(lambda x: rules.constrain(x, "batch", "length", "heads", "head_dim"))(
            jnp.ones((8, 3, 4, 5))
        ).sharding.spec
    assert spec == P(("data", "fsdp"), None, "tensor") or spec == P(("data", "fsdp"), None, "tensor", None)
