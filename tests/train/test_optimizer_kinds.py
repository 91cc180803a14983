"""Adafactor and Muon on stacked layers: one stacked step is that of each layer by itself, and each leaf has the
optimizer that is said."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.config.lora import LoraSpec
from cprec_jax.config.train import OptimizerSpec
from cprec_jax.errors import UserError
from cprec_jax.model.decoder import Decoder, abstract_params
from cprec_jax.parallel import rules
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.leaves import by_name, leaf_name
from cprec_jax.train.lora import adapters_of
from cprec_jax.train.matrices import dimension_numbers
from cprec_jax.train.optimizer import make_optimizer, updater
from cprec_jax.train.overview import overview
from cprec_jax.train.state import TrainState, abstract, new_state
from tests.model.tiny import tiny

RATE, STEPS, LAYERS = 0.1, 3, 3
SPECS = {
    "muon": OptimizerSpec(kind="muon", clip_norm=1e9),
    "adafactor": OptimizerSpec(kind="adafactor", clip_norm=1e9, factored_from=4),
}
MATRICES = {
    f"layers/{name}"
    for name in ("attention/q", "attention/k", "attention/v", "attention/o", "mlp/gate", "mlp/up", "mlp/down")
}


def made(**changes: Any) -> tuple[Any, dict[str, tuple[str, ...]]]:
    decoder, params = tiny(num_layers=LAYERS, attention_bias=True, qk_norm="head", tie_embeddings=False, **changes)
    return params, by_name(abstract_params(decoder)[1], is_leaf=lambda one: isinstance(one, tuple))


def gradients(params: Any, step: int) -> Any:
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), params)


def after_steps(spec: OptimizerSpec, params: Any, axes: Any, grads: list[Any]) -> Any:
    optimizer = make_optimizer(spec, lambda _: RATE, axes)

    @jax.jit
    def step(params: Any, state: Any, grad: Any) -> Any:
        updates, state = optimizer.update(grad, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    state = optimizer.init(params)
    for grad in grads:
        params, state = step(params, state, grad)
    return params


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
def test_a_stacked_step_is_that_of_each_layer_by_itself(kind: str) -> None:
    params, axes = made()
    grads = [gradients(params, number) for number in range(STEPS)]
    stacked = after_steps(SPECS[kind], params, axes, grads)
    single_axes = {name: own[1:] if own[0] == "layers" else own for name, own in axes.items()}

    def of_layer(tree: Any, layer: int) -> Any:
        return {**tree, "layers": jax.tree.map(lambda leaf: leaf[layer], tree["layers"])}

    for layer in range(LAYERS):
        single = after_steps(
            SPECS[kind], of_layer(params, layer), single_axes, [of_layer(grad, layer) for grad in grads]
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), of_layer(stacked, layer), single
        )
    jax.tree.map(lambda a, b: np.testing.assert_array_less(0, np.abs(a - b).max()), stacked, params)  # everything moved


def test_the_matrices_of_an_adapter_are_matrices_too() -> None:
    """The rank is one side of each; the other may be two axes."""
    config = tiny()[0].config
    _, axes = abstract_params(Decoder(config, adapters=adapters_of(LoraSpec(rank=5), config)))
    own = {
        name: one for name, one in by_name(axes, is_leaf=lambda one: isinstance(one, tuple)).items() if "_lora_" in name
    }
    assert len(own) == 14 and all(updater(SPECS["muon"], one) == "muon" for one in own.values())
    assert dimension_numbers(own["layers/attention/q_lora_b"]) == ((1,), (2, 3))
    assert dimension_numbers(own["layers/attention/o_lora_a"]) == ((1, 2), (3,))
    assert dimension_numbers(own["layers/mlp/gate_lora_a"]) == ((1,), (2,))


def test_muon_orthogonalises_whole_matrices_over_heads() -> None:
    """The update of q [D, H, h] is near c * U V^T of the matrix [D, H h], and its root mean square near that of
    Adam."""
    params, axes = made()
    spec = OptimizerSpec(kind="muon", clip_norm=1e9, weight_decay=0.0)
    moved = jax.tree.map(jnp.subtract, after_steps(spec, params, axes, [gradients(params, 0)]), params)
    for name, shape in (("q", (32, 32)), ("k", (32, 16)), ("o", (32, 32))):
        for layer in range(LAYERS):
            matrix = np.asarray(moved["layers"]["attention"][name][layer]).reshape(shape)
            values = np.linalg.svd(matrix, compute_uv=False) / (RATE * 0.2 * max(shape) ** 0.5)
            # the smallest of a random square matrix is near zero, and five iterations do not lift it
            assert values[-2] > 0.4 and values[0] < 1.3, (name, values)


def test_who_gets_what() -> None:
    params, axes = made()
    assert {name for name, own in axes.items() if dimension_numbers(own) is not None} == MATRICES
    owners = {name: updater(SPECS["muon"], own) for name, own in axes.items()}
    assert {name for name, owner in owners.items() if owner == "muon"} == MATRICES
    table = overview(params, axes, frozenset({"embed"}), SPECS["muon"])
    said = {line.split()[0]: " ".join(line.split()[3:]) for line in table.splitlines()[1:]}
    assert (
        said["layers/attention/q"] == "muon, decays" and said["lm_head"] == "adam, decays" and said["embed"] == "frozen"
    )
    assert said["layers/attention/q_bias"] == said["final_norm"] == said["layers/mlp_norm"] == "adam"
    assert {updater(SPECS["adafactor"], own) for own in axes.values()} == {"adafactor"}


def test_adam_is_what_muon_gives_to_the_rest() -> None:
    params, axes = made()
    grads = [gradients(params, number) for number in range(STEPS)]
    muon = by_name(after_steps(SPECS["muon"], params, axes, grads))
    adam = by_name(after_steps(OptimizerSpec(clip_norm=1e9), params, axes, grads))
    for name in muon:
        if name in MATRICES:
            assert np.abs(muon[name] - adam[name]).max() > 1e-3
        else:
            np.testing.assert_allclose(muon[name], adam[name], rtol=1e-5, atol=1e-6)


def test_adafactor_factors_matrices_and_nothing_else() -> None:
    params, axes = made()
    state = make_optimizer(SPECS["adafactor"], lambda _: RATE, axes).init(params)
    kept = sum(leaf.size for leaf in jax.tree.leaves(state))
    factored = (
        sum(LAYERS * (32 + 32 if name in "qo" else 32 + 16) for name in "qkvo") + LAYERS * 3 * (32 + 48) + 2 * (64 + 32)
    )
    vectors = sum(leaf.size for name, leaf in by_name(params).items() if name.endswith(("norm", "bias")))
    few = 40 * len(axes)  # counts, and the ones that optax has in place of what it does not keep
    assert (
        factored + vectors <= kept <= factored + vectors + few < sum(leaf.size for leaf in jax.tree.leaves(params)) / 2
    )


@pytest.mark.parametrize("kind", [*SPECS, "adamw"])
def test_decay_by_pattern(kind: str) -> None:
    """Where there is no gradient, exactly the leaves that the patterns match shrink, by rate times decay."""
    params, axes = made()
    zero = jax.tree.map(jnp.zeros_like, params)
    for decayed, expected in (
        (None, MATRICES | {"embed", "lm_head"}),
        (
            ("lm_head", "layers/*_norm"),
            {
                "lm_head",
                "layers/attention_norm",
                "layers/mlp_norm",
                "layers/attention/q_norm",
                "layers/attention/k_norm",
            },
        ),
    ):
        spec = OptimizerSpec(kind=kind, weight_decay=0.5, decayed=decayed)  # type: ignore[arg-type]  # a name of a kind
        after = by_name(after_steps(spec, params, axes, [zero]))
        before = by_name(params)
        shrunk = {name for name in before if np.abs(after[name] - before[name]).max() > 0}
        assert shrunk == expected
        for name in shrunk:
            np.testing.assert_allclose(after[name], before[name] * (1 - RATE * 0.5), rtol=1e-5)


def test_a_pattern_that_matches_nothing() -> None:
    _, axes = made()
    with pytest.raises(
        UserError, match=r"config.train.optimizer.decayed: 'layer/\*' matches no parameter; there are .*embed"
    ):
        make_optimizer(OptimizerSpec(decayed=("lm_head", "layer/*")), lambda _: RATE, axes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "adafactor", "b1": 0.8}, "b1 belongs to adamw and muon; adafactor has no such setting"),
        ({"momentum": 0.5}, "momentum belongs to muon; adamw has no such setting"),
        ({"kind": "muon", "decay_rate": 0.5}, "decay_rate belongs to adafactor; muon has no such setting"),
    ],
)
def test_settings_of_other_kinds_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerSpec(**settings)
    assert set(OptimizerSpec(kind="adafactor").of_kind) == {
        "kind",
        "decay_rate",
        "factored_from",
        "weight_decay",
        "clip_norm",
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SPECS, "adamw"])
def test_states_are_sharded_saved_and_restored(kind: str, tmp_path: Any) -> None:
    """Moments lie as their leaves do, on a mesh; what is saved comes back, with all that optax puts into its trees."""
    params, axes = made()
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    decoder, _ = tiny(num_layers=LAYERS, attention_bias=True, qk_norm="head", tie_embeddings=False)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, rules.param_shardings(mesh, *abstract_params(decoder)))
        optimizer = make_optimizer(SPECS.get(kind, OptimizerSpec()), lambda _: RATE, axes)
        state = new_state(params, optimizer, mesh)
        updates, opt_state = jax.jit(optimizer.update)(gradients(params, 1), state.opt_state, params)
        state = TrainState(step=state.step + 1, trained=jax.tree.map(jnp.add, params, updates), opt_state=opt_state)
        if kind != "adafactor":
            moments = {
                leaf_name(path): leaf
                for path, leaf in jax.tree_util.tree_leaves_with_path(new_state(params, optimizer, mesh).opt_state)
            }
            (q,) = [leaf for name, leaf in moments.items() if name.endswith("mu/layers/attention/q")]
            assert q.sharding == params["layers"]["attention"]["q"].sharding
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(state, {"tokens": 1, "seconds": 1.0})
        checkpoints.verify(state)
        restored = checkpoints.restore_newest(abstract(state))
    assert restored is not None and jax.tree.structure(restored[0]) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored[0], state)
