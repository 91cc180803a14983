import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.model.loss import chunk_for, cross_entropy_sum, next_token_targets

B, T, D, V = 3, 24, 8, 37


def naive(x: jax.Array, w: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    log_probs = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", x, w))
    return -jnp.sum(weights * jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0])


@pytest.fixture(scope="module")
def inputs() -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (B, T, D))
    w = jax.random.normal(keys[1], (V, D))
    labels = jax.random.randint(keys[2], (B, T), 0, V)
    weights = jax.random.uniform(keys[3], (B, T)) * (jax.random.uniform(keys[3], (B, T)) > 0.3)
    return x, w, labels, weights


@pytest.mark.parametrize("chunk", [1, 8, 24])
def test_value_and_gradients_equal_the_plain_softmax(inputs: tuple[jax.Array, ...], chunk: int) -> None:
    x, w, labels, weights = inputs
    ours = jax.jit(
        jax.value_and_grad(lambda x, w: 3.0 * cross_entropy_sum(x, w, labels, weights, chunk), argnums=(0, 1))
    )(x, w)
    theirs = jax.value_and_grad(lambda x, w: 3.0 * naive(x, w, labels, weights), argnums=(0, 1))(x, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)
    assert float(cross_entropy_sum(x, w, labels, weights, chunk)) == pytest.approx(
        float(naive(x, w, labels, weights)), rel=1e-6
    )


def test_large_logits_stay_finite() -> None:
    x = jnp.full((1, 2, D), 100.0)
    w = jnp.concatenate([jnp.ones((1, D)), -jnp.ones((V - 1, D))])
    value, grads = jax.value_and_grad(lambda x: cross_entropy_sum(x, w, jnp.array([[0, 1]]), jnp.ones((1, 2)), 1))(x)
    assert float(value) == pytest.approx(1600.0)
    assert bool(jnp.isfinite(grads).all())


def test_bfloat16_head_gradient_is_summed_in_float32(inputs: tuple[jax.Array, ...]) -> None:
    x, w, labels, weights = inputs
    grad = jax.grad(lambda w: cross_entropy_sum(x.astype(jnp.bfloat16), w, labels, weights, 1))(w)
    exact = jax.grad(
        lambda w: naive(
            x.astype(jnp.bfloat16).astype(jnp.float32), w.astype(jnp.bfloat16).astype(jnp.float32), labels, weights
        )
    )(w)
    assert grad.dtype == jnp.float32
    np.testing.assert_allclose(grad, exact, atol=0.05)


def test_targets_stay_inside_documents() -> None:
    tokens = jnp.array([[5, 6, 7, 8, 9, 0]])
    segments = jnp.array([[1, 1, 1, 2, 2, 0]])
    mask = jnp.array([[0.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    labels, weights = next_token_targets(tokens, segments, mask)
    assert labels[0, :5].tolist() == [6, 7, 8, 9, 0]
    # 7 -> 8 crosses documents, 9 -> padding; a header token (mask 0) would be no target either.
    assert weights[0].tolist() == [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert next_token_targets(tokens, segments, mask.at[0, 1].set(0.0))[1][0].tolist() == [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]


def test_chunk_for_divides() -> None:
    assert [chunk_for(t, 128) for t in (256, 200, 96, 7)] == [128, 100, 96, 7]
