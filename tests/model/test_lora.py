"""Adapters in the decoder: a fresh one changes nothing, and a trained one is the sum of base and product."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.model.decoder import Decoder, abstract_params, init_params, logits
from cprec_jax.model.lora import Adapters, is_adapter, merged
from cprec_jax.train.leaves import by_name, merge, split
from tests.model.tiny import one_segment, tiny

ALL = ("attention/q", "attention/k", "attention/v", "attention/o", "mlp/gate", "mlp/up", "mlp/down")
RANK = 5  # unlike every other size
# nothing is square
SHAPE = {
    "hidden_size": 24,
    "intermediate_size": 56,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 8,
    "num_layers": 3,
}
TOKENS = np.random.default_rng(0).integers(0, 64, (2, 20))


def adapted(weights: tuple[str, ...] = ALL, fresh: bool = False, **changes: Any) -> tuple[Decoder, Any, Decoder, Any]:
    """A decoder and its parameters, and the same with adapters, whose B is zero only where it is fresh."""
    decoder, params = tiny(**SHAPE, attention_bias=True, mlp_bias=True)
    own = decoder.clone(adapters=Adapters(weights=weights, rank=RANK, scale=0.7, **changes))
    made = jax.jit(functools.partial(init_params, own))(jax.random.key(1))
    adapter, _ = split(made, [name for name in by_name(made) if not is_adapter(name)])
    if not fresh:
        rng = np.random.default_rng(2)
        adapter = jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32), adapter)
    return decoder, params, own, merge(params, adapter)


@functools.partial(jax.jit, static_argnums=0)
def forward(decoder: Decoder, params: Any, inputs: Any) -> jax.Array:
    return logits(params, decoder.config, decoder.apply({"params": params}, *inputs))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fresh_adapter_changes_no_bit(dtype: str) -> None:
    decoder, params, own, with_adapter = adapted(fresh=True)
    before = forward(decoder.clone(dtype=jnp.dtype(dtype)), params, one_segment(TOKENS))
    after = forward(own.clone(dtype=jnp.dtype(dtype)), with_adapter, one_segment(TOKENS))
    assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    a = with_adapter["layers"]["attention"]["o_lora_a"]
    assert a.shape == (3, 6, 8, RANK) and 0.9 / 48**0.5 < np.abs(a).max() <= 1 / 48**0.5, (
        "He: uniform within 1 / sqrt(in)"
    )


@pytest.mark.parametrize(
    "weights", [ALL, ("attention/o",), ("mlp/down", "attention/k")], ids=["all", "o", "down and k"]
)
def test_the_sum_computes_what_the_adapter_does(weights: tuple[str, ...]) -> None:
    decoder, params, own, with_adapter = adapted(weights)
    found = forward(own, with_adapter, one_segment(TOKENS))
    whole = merged(with_adapter, 0.7)
    assert jax.tree.structure(whole) == jax.tree.structure(dict(params))
    np.testing.assert_allclose(found, forward(decoder, whole, one_segment(TOKENS)), atol=1e-4)
    assert np.abs(found - forward(decoder, params, one_segment(TOKENS))).max() > 0.1


def test_the_sum_is_rounded_once() -> None:
    """Every axis where it belongs, against float64: half a unit in the last place of the sum, and no more than float32
    products add."""
    _, params, _, with_adapter = adapted()
    whole, leaves = by_name(merged(with_adapter, 0.7)), by_name(with_adapter)
    for name in ALL:
        w, a, b = (np.asarray(leaves[f"layers/{name}{part}"], np.float64) for part in ("", "_lora_a", "_lora_b"))
        expected = w + 0.7 * np.einsum("lir,lro->lio", a.reshape(3, -1, RANK), b.reshape(3, RANK, -1)).reshape(w.shape)
        np.testing.assert_allclose(whole[f"layers/{name}"], expected, rtol=0, atol=3e-7 * np.abs(expected).max())
    others = {name for name in by_name(params) if name.removeprefix("layers/") not in ALL}
    assert all(whole[name] is leaves[name] for name in others) and len(others) == 10


def test_dropout_is_on_the_input_of_the_adapter_alone() -> None:
    decoder, params, own, with_adapter = adapted(dropout=0.5)

    def drawn(decoder: Decoder, params: Any, key: int) -> jax.Array:
        rngs = {"dropout": jax.random.key(key)}
        apply = jax.jit(
            lambda params: decoder.apply({"params": params}, *one_segment(TOKENS), deterministic=False, rngs=rngs)
        )
        return apply(params)

    one, other = drawn(own, with_adapter, 0), drawn(own, with_adapter, 1)
    assert np.abs(one - other).max() > 1e-2 and np.array_equal(one, drawn(own, with_adapter, 0))
    _, _, own, fresh = adapted(fresh=True, dropout=0.5)
    assert np.array_equal(drawn(own, fresh, 0), drawn(decoder, params, 0)), "of the base nothing is dropped"


def test_a_decoder_without_adapters_has_the_parameters_of_before() -> None:
    decoder, _, own, _ = adapted()
    names = set(by_name(abstract_params(own)[0]))
    assert set(by_name(abstract_params(decoder)[0])) == {name for name in names if not is_adapter(name)}
