import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.model.decoder import Decoder, abstract_params, count_params, head_weight, init_params, logits
from cprec_jax.model.partial_attention import attend_keys, by_head, by_position, normalise
from cprec_jax.parallel.rules import RULES
from tests.model.tiny import hidden, one_segment, packed, tiny, tiny_config

VARIANTS = {
    "llama": {},
    "qwen2": {"attention_bias": True},
    "qwen3": {"qk_norm": "head"},
    "mistral": {"sliding_window": 6},
    "olmo2": {"qk_norm": "full", "norm_placement": "post"},
    "gemma3": {
        "qk_norm": "head",
        "norm_placement": "both",
        "norm_plus_one": True,
        "scale_embeddings": True,
        "activation": "gelu_tanh",
        "query_scalar": 20.0,
        "sliding_window": 5,
        "sliding_layers": (True, True, False),
        "local_rope_theta": 100.0,
        "attention_softcap": 5.0,
    },
}


@pytest.fixture(params=VARIANTS)
def variant(request):
    return tiny(**VARIANTS[request.param])


def documents(*lengths):
    rng = np.random.default_rng(5)
    return [rng.integers(0, 64, size=n) for n in lengths]


def test_packed_rows_equal_unpacked_documents(variant):
    decoder, params = variant
    docs = documents(9, 1, 14, 5)
    together = hidden(decoder, params, packed([docs], 40))
    alone = hidden(decoder, params, packed([[document] for document in docs], 40))
    start = 0
    for row, document in zip(alone, docs, strict=True):
        np.testing.assert_allclose(together[0, start : start + len(document)], row[: len(document)], atol=1e-5)
        start += len(document)


@functools.partial(jax.jit, static_argnums=0)
def sensitivity(decoder, params, inputs, t):
    """|d x[t] / d embedding of the token at s| for every position s (all tokens differ, so rows of the table are
    positions)."""
    weights = jnp.sin(1.0 + jnp.arange(decoder.config.hidden_size))

    def probe(embed):
        return decoder.apply({"params": {**params, "embed": embed}}, *inputs)[0, t] @ weights

    return jnp.abs(jax.grad(probe)(params["embed"])).sum(-1)[inputs[0][0]]


def test_causality_and_isolation_through_gradients(variant):
    decoder, params = variant
    tokens = np.random.default_rng(2).permutation(64)
    effect = sensitivity(decoder, params, packed([[tokens[:15]]], 15), 7)
    assert (effect[8:] == 0).all()
    assert (effect[5:8] > 0).all()
    effect = sensitivity(decoder, params, packed([[tokens[:6], tokens[6:11], tokens[11:15]]], 15), 9)
    assert (effect[:6] == 0).all() and (effect[10:] == 0).all()
    assert (effect[6:10] > 0).all()


def test_sliding_window_reaches_exactly_so_far():
    decoder, params = tiny(num_layers=2, sliding_window=3)
    effect = sensitivity(decoder, params, one_segment(np.arange(12)[None]), 9)
    assert (effect[5:10] > 0).all()  # two layers reach 2 * (3 - 1) back
    assert (effect[:5] == 0).all()


def test_window_only_where_the_layer_has_it():
    decoder, params = tiny(num_layers=2, sliding_window=3, sliding_layers=(True, False))
    assert (sensitivity(decoder, params, one_segment(np.arange(12)[None]), 9)[:10] > 0).all()


def test_attend_that_does_not_know_the_window_fails():
    decoder, params = tiny(sliding_window=3)
    plain = decoder.clone(attend=lambda q, k, v, past, context: q)
    with pytest.raises(TypeError, match="window"):
        plain.apply({"params": params}, *one_segment(documents(5)[0][None]))


def test_prompt_then_continuation_equals_the_full_pass(variant):
    decoder, params = variant
    tokens, positions, context = one_segment(np.stack(documents(20, 20)))
    cut = 13
    whole = hidden(decoder, params, (tokens, positions, context))
    start, past = hidden(decoder, params, (tokens[:, :cut], positions[:, :cut], (context[0][:, :cut],)), return_kv=True)
    assert past[0].shape == (3, 2, cut, 2, 8)

    def attend_over_past(q, k, v, past, context, window=2**30, softcap=None):
        k, v = (jnp.concatenate([old, new], axis=1) for old, new in zip(past, (k, v), strict=True))
        distance = jnp.arange(cut, 20)[:, None] - jnp.arange(20)[None]
        mask = (distance >= 0) & (distance < window)
        visible = jnp.broadcast_to(mask, (2, *mask.shape))
        return by_position(normalise(attend_keys(by_head(q, k.shape[2]), k, v, visible, softcap)))

    rest = hidden(decoder.clone(attend=attend_over_past), params, (tokens[:, cut:], positions[:, cut:], None), past)
    np.testing.assert_allclose(jnp.concatenate([start, rest], axis=1), whole, atol=1e-5)


def loss_of(decoder, inputs):
    def loss(params):
        return jnp.square(logits(params, decoder.config, decoder.apply({"params": params}, *inputs))).mean()

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize(("remat", "unroll"), [("none", True), ("full", False), ("full", True), ("dots", False)])
def test_remat_and_unroll_change_nothing(remat, unroll):
    decoder, params = tiny()
    inputs = one_segment(np.stack(documents(16, 16)))
    expected = loss_of(decoder, inputs)(params)
    got = loss_of(decoder.clone(remat=remat, unroll=unroll), inputs)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_remat_saves_less():
    """The residuals of the backward pass shrink: the contract of the policies."""
    decoder, params = tiny(num_layers=4)
    inputs = one_segment(np.zeros((4, 256), np.int32))

    def residual_bytes(remat):
        def forward(params):
            return decoder.clone(remat=remat).apply({"params": params}, *inputs).sum()

        residuals = jax.eval_shape(lambda params: jax.vjp(forward, params)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    full, dots, none = (residual_bytes(remat) for remat in ("full", "dots", "none"))
    assert full < dots < none


def test_dropout():
    decoder, params = tiny()
    inputs = one_segment(documents(16)[0][None])
    wet = decoder.clone(dropout=0.3)

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def run(module, seed, deterministic):
        return module.apply(
            {"params": params}, *inputs, deterministic=deterministic, rngs={"dropout": jax.random.key(seed)}
        )

    np.testing.assert_array_equal(run(wet, 0, False), run(wet, 0, False))
    assert np.abs(run(wet, 0, False) - run(wet, 1, False)).max() > 0.1
    np.testing.assert_array_equal(run(wet, 0, True), hidden(decoder, params, inputs))
    text = str(jax.make_jaxpr(lambda: run(decoder, 0, False))())
    assert "random_bits" not in text and "threefry" not in text
    assert "random_bits" in str(jax.make_jaxpr(lambda: run(wet, 0, False))())


def test_bf16_compute_keeps_float32_parameters_and_gradients():
    decoder, params = tiny()
    low = decoder.clone(dtype=jnp.bfloat16)
    inputs = one_segment(documents(16)[0][None])
    x_BTD = hidden(low, params, inputs)
    assert x_BTD.dtype == jnp.bfloat16
    np.testing.assert_allclose(x_BTD.astype(jnp.float32), hidden(decoder, params, inputs), atol=0.15)
    _, gradients = loss_of(low, inputs)(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, gradients))} == {jnp.dtype(jnp.float32)}
    assert logits(params, low.config, x_BTD).dtype == jnp.float32


def test_init_scales():
    def make(**changes):
        decoder = Decoder(tiny_config(hidden_size=64, intermediate_size=256, num_layers=8, vocab_size=512, **changes))
        return jax.jit(lambda key: init_params(decoder, key))(jax.random.key(3))

    params = make()
    layers = params["layers"]
    for leaf, std in [
        (params["embed"], 0.02),
        (layers["attention"]["q"], 0.02),
        (layers["mlp"]["up"], 0.02),
        (layers["mlp"]["down"], 0.02 / 4),
        (layers["attention"]["o"], 0.02 / 4),
    ]:
        assert np.std(leaf) == pytest.approx(std, rel=0.05)
    assert not np.array_equal(layers["mlp"]["up"][0], layers["mlp"]["up"][1])
    assert (params["final_norm"] == 1).all()
    assert (make(norm_plus_one=True)["final_norm"] == 0).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_has_known_logical_axes(name):
    shapes, axes = abstract_params(Decoder(tiny_config(**VARIANTS[name], tie_embeddings=False)))
    leaves = jax.tree.leaves(shapes)
    names = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))
    assert len(leaves) == len(names)
    for leaf, logical in zip(leaves, names, strict=True):
        assert len(logical) == leaf.ndim and set(logical) <= set(RULES)
    assert all(
        logical[0] == "layers" for logical in jax.tree.leaves(axes["layers"], is_leaf=lambda x: isinstance(x, tuple))
    )


def test_tied_and_untied_heads():
    tied, tied_params = tiny()
    untied, untied_params = tiny(tie_embeddings=False)
    assert head_weight(tied_params, tied.config) is tied_params["embed"]
    assert head_weight(untied_params, untied.config) is untied_params["lm_head"]
    assert count_params(untied.config) - count_params(tied.config) == 64 * 32
    assert not np.array_equal(untied_params["lm_head"], untied_params["embed"])


def test_no_sharding_constraint_without_a_mesh():
    decoder, params = tiny()
    inputs = one_segment(documents(8)[0][None])
    assert "sharding_constraint" not in str(jax.make_jaxpr(lambda p: decoder.apply({"params": p}, *inputs))(params))
