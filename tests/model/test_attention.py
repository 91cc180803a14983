import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.model.attention import attention

run = jax.jit(attention, static_argnames=("window", "softcap", "block"))


def arrays(T=37, H=6, K=2, h=8, B=2):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(B, T, heads, h)), jnp.float32) for heads in (H, K, K))
    segments = np.sort(rng.integers(1, 4, size=(B, T)), axis=1)
    segments[:, -3:] = 0  # padding
    return q, k, v, jnp.asarray(segments)


def naive(q, k, v, segments, window=None, softcap=None):
    """One query, one head at a time, in float64."""
    q, k, v, segments = (np.asarray(x, np.float64) for x in (q, k, v, segments))
    B, T, H, h = q.shape
    out = np.zeros_like(q)
    for b, t, n in np.ndindex(B, T, H):
        visible = [s for s in range(t + 1) if segments[b, s] == segments[b, t] and (window is None or t - s < window)]
        kv = n // (H // k.shape[2])
        scores = k[b, visible, kv] @ q[b, t, n] / np.sqrt(h)
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        probs = np.exp(scores - scores.max())
        out[b, t, n] = (probs / probs.sum()) @ v[b, visible, kv]
    return out


@pytest.mark.parametrize("block", [16, 128])
@pytest.mark.parametrize("extra", [{}, {"window": 5}, {"softcap": 1.5}, {"window": 3, "softcap": 2.0}])
def test_equals_one_query_at_a_time(block, extra):
    q, k, v, segments = arrays()
    np.testing.assert_allclose(
        run(q, k, v, segments, block=block, **extra), naive(q, k, v, segments, **extra), atol=2e-6
    )


def test_window_may_be_traced():
    q, k, v, segments = arrays()
    traced = jax.jit(lambda window: attention(q, k, v, segments, window=window))(jnp.int32(5))
    np.testing.assert_allclose(traced, run(q, k, v, segments, window=5), atol=1e-6)


@pytest.mark.parametrize("heads", [(6, 6), (6, 2), (6, 1)])
def test_gradients_equal_the_unblocked_form(heads):
    q, k, v, segments = arrays(H=heads[0], K=heads[1])

    def total(block):
        return jax.jit(jax.grad(lambda *qkv: jnp.sin(attention(*qkv, segments, block=block)).sum(), argnums=(0, 1, 2)))(
            q, k, v
        )

    for blocked, whole in zip(total(16), total(64), strict=True):
        np.testing.assert_allclose(blocked, whole, rtol=1e-5, atol=2e-6)


def test_bf16_keeps_softmax_in_float32():
    q, k, v, segments = arrays()
    low = run(*(x.astype(jnp.bfloat16) for x in (q, k, v)), segments)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), naive(q, k, v, segments), atol=0.05)
