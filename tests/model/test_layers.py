import math

import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.model.config import RopeScaling
from cprec_jax.model.layers import apply_rope, rms_norm, rope_frequencies, rope_tables
from tests.model.tiny import tiny_config


def test_rope_turns_pairs_as_complex_numbers():
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 8)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 4], [7, 0, 1, 2, 100]])
    turned = apply_rope(jnp.asarray(x), rope_tables(jnp.asarray(positions), rope_frequencies(8, 10000.0, None)))
    angles = positions[:, :, None, None] / 10000.0 ** (np.arange(0, 8, 2) / 8)
    expected = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    np.testing.assert_allclose(turned, np.concatenate([expected.real, expected.imag], -1), atol=2e-5)


def test_rope_scores_depend_on_distance_only():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 2, 1, 8)), jnp.float32)
    tables = [rope_tables(jnp.asarray([[3 + shift, 9 + shift]]), rope_frequencies(8, 500.0, None)) for shift in (0, 50)]
    near, far = (apply_rope(x, table) for table in tables)
    np.testing.assert_allclose(jnp.vdot(near[0, 0], near[0, 1]), jnp.vdot(far[0, 0], far[0, 1]), rtol=1e-4)


def test_llama3_scaling_keeps_fast_and_divides_slow_frequencies():
    scaling = RopeScaling(kind="llama3", factor=32.0, original_max_position_embeddings=8192)
    plain, scaled = (np.asarray(rope_frequencies(64, 500000.0, s)) for s in (None, scaling))
    wavelength = 2 * math.pi / plain
    np.testing.assert_allclose(scaled[wavelength < 8192 / 4], plain[wavelength < 8192 / 4], rtol=1e-6)
    np.testing.assert_allclose(scaled[wavelength > 8192], plain[wavelength > 8192] / 32, rtol=1e-6)
    between = (wavelength > 8192 / 4) & (wavelength < 8192)
    assert between.any()
    smooth = (8192 / wavelength[between] - 1) / 3  # the reference code of Llama 3.1
    np.testing.assert_allclose(scaled[between], (1 - smooth) * plain[between] / 32 + smooth * plain[between], rtol=1e-5)


def test_linear_scaling_divides_all_frequencies():
    scaled = rope_frequencies(16, 10000.0, RopeScaling(kind="linear", factor=8.0))
    np.testing.assert_allclose(scaled * 8, rope_frequencies(16, 10000.0, None), rtol=1e-6)


@pytest.mark.parametrize("plus_one", [False, True])
def test_rms_norm(plus_one):
    x = np.random.default_rng(2).normal(size=(4, 8)) * 3
    scale = np.linspace(0.5, 2.0, 8)
    config = tiny_config(norm_plus_one=plus_one, norm_eps=1e-3)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * (scale + plus_one)
    np.testing.assert_allclose(
        rms_norm(jnp.asarray(x, jnp.float32), jnp.asarray(scale, jnp.float32), config), expected, rtol=1e-5
    )
