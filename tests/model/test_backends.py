"""The choice of an attention backend, the proof it has to give, and the proofs of splash (interpreted) and cuDNN (its
binding replaced)."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.model import backends
from cprec_jax.model.attention import attention, packed_attention
from cprec_jax.model.backends import attend_for, choose, prove
from cprec_jax.model.kernels import cudnn
from cprec_jax.model.kernels.cudnn import Cudnn, segment_runs
from cprec_jax.model.kernels.splash import Splash
from tests.model.tiny import tiny_config

CPU = SimpleNamespace(platform="cpu", device_kind="cpu")
TPU = SimpleNamespace(platform="tpu", device_kind="TPU v5e")
H100 = SimpleNamespace(platform="gpu", device_kind="H100", compute_capability="9.0")
A100 = SimpleNamespace(platform="gpu", device_kind="A100", compute_capability="8.0")


@pytest.mark.parametrize(
    ("name", "device", "changes", "dtype", "length", "chosen", "reason"),
    [
        ("auto", CPU, {}, "float32", 100, "xla", "device cpu"),
        ("auto", TPU, {}, "float32", 256, "splash", "device TPU v5e"),
        ("auto", TPU, {}, "float32", 200, "xla", "not splash: config.pack.row_length 200 is not a multiple of 128"),
        ("auto", H100, {}, "bfloat16", 256, "cudnn", "device H100"),
        ("auto", H100, {}, "float32", 256, "xla", "config.model.dtype is float32"),
        ("auto", H100, {}, "bfloat16", 192, "xla", "row_length 192 is not a multiple of 128"),
        ("auto", H100, {"attention_softcap": 3.0}, "bfloat16", 256, "xla", "no soft cap"),
        ("auto", H100, {"head_dim": 12}, "bfloat16", 256, "xla", "head_dim 12"),
        ("auto", A100, {}, "bfloat16", 256, "xla", "A100 has 8.0"),
        ("xla", H100, {}, "bfloat16", 256, "xla", "config.model.attention"),
    ],
)
def test_choice_and_its_reason(name, device, changes, dtype, length, chosen, reason) -> None:
    found = choose(name, tiny_config(**changes), dtype, length, device)
    assert found[0] == chosen and reason in found[1]


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("flash3", CPU, "no backend 'flash3'"),
        ("splash", CPU, "it needs a TPU"),
        ("cudnn", TPU, "NVIDIA GPU"),
        ("cudnn", A100, "Hopper"),
    ],
)
def test_what_was_asked_for_is_never_replaced(name, device, message) -> None:
    with pytest.raises(UserError, match=message):
        choose(name, tiny_config(), "bfloat16", 256, device)


def test_the_choice_is_named_in_the_log(capsys) -> None:
    assert attend_for("auto", tiny_config(), jnp.float32, 100) is packed_attention()
    assert "attention: xla (device cpu)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "most", "compiled"),
    [
        (None, None, cudnn.MAX_SEGMENTS),
        (None, 123, 128),
        (None, 2, 8),
        (200, 123, 200),
        (90, None, 96),
        (100, 123, None),
    ],
)
def test_cudnn_is_compiled_for_the_segments_of_the_rows(limit, most, compiled, monkeypatch, capsys) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: [H100])
    monkeypatch.setattr(backends, "prove", lambda *_: None)
    found = attend_for("auto", tiny_config(), "bfloat16", 256, limit, most)
    if compiled is not None:
        assert isinstance(found, Cudnn) and found.max_segments == compiled
        return
    assert found is packed_attention()
    assert "attention: xla (not cudnn: a row holds up to 123 documents and padding" in capsys.readouterr().err
    with pytest.raises(UserError, match="cudnn cannot be used: a row holds up to 123"):
        attend_for("cudnn", tiny_config(), "bfloat16", 256, limit, most)


def test_proof_refuses_a_backend_that_ignores_segments_window_or_gives_nan() -> None:
    config = tiny_config(sliding_window=5, head_dim=8, num_heads=2, num_kv_heads=1)

    def no_segments(q, k, v, past, context, **extra):
        return attention(q, k, v, jnp.ones_like(context[0]), **extra)

    def no_window(q, k, v, past, context, **extra):
        return attention(q, k, v, *context)

    def nan_on_padding(q, k, v, past, context, **extra):
        return jnp.where(context[0][..., None, None] > 0, attention(q, k, v, *context, **extra), jnp.nan)

    def crashes(q, k, v, past, context, **extra):
        raise NotImplementedError("not on this device")

    prove("xla", packed_attention(), config, jnp.bfloat16)
    for broken in (no_segments, no_window, nan_on_padding):
        with pytest.raises(UserError, match="differs from the reference"):
            prove("broken", broken, config, jnp.bfloat16)
    with pytest.raises(UserError, match=r"does not run here.*not on this device"):
        prove("broken", crashes, config, jnp.bfloat16)


KINDS = {
    "grouped": {},
    "window, soft cap": {"sliding_window": 9, "attention_softcap": 2.0},
    "layers differ": {"sliding_window": 130, "sliding_layers": (True, False, True)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_splash_gives_the_reference_forward_and_backward(kind) -> None:
    config = tiny_config(head_dim=16, **KINDS[kind])
    prove("splash", Splash(window=config.sliding_window, interpret=True), config, jnp.float32)


def inputs(B: int = 2, T: int = 256, H: int = 2, K: int = 1, h: int = 16, dtype: Any = jnp.float32):
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(B, T, heads, h)), dtype) for heads in (H, K, K))
    segments = np.repeat([[1, 2, 0]], B, axis=0).repeat([100, 120, T - 220], axis=1).astype(np.int32)
    return q, k, v, jnp.asarray(segments)


def assert_isolated_and_causal(attend, dtype) -> None:
    """What one query gives depends on its own document up to itself, and on nothing else: seen in the gradients."""
    q, k, v, segments = inputs(dtype=dtype)
    query = 150  # in the second document, which begins at 100

    def one(k, v):
        return jnp.sum(attend(q, k, v, None, (segments,))[:, query].astype(jnp.float32) ** 2)

    for gradient in jax.jit(jax.grad(one, (0, 1)))(k, v):
        reached = np.abs(np.asarray(gradient, np.float32)).max(axis=(0, 2, 3)) > 0
        assert reached[100 : query + 1].all() and not reached[:100].any() and not reached[query + 1 :].any()


def test_splash_is_isolated_and_causal() -> None:
    assert_isolated_and_causal(Splash(interpret=True), jnp.float32)


def test_splash_on_a_mesh_of_eight_devices_equals_the_reference() -> None:
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    from cprec_jax.parallel.mesh import make_mesh

    q, k, v, segments = inputs(B=4, H=4, K=2)
    with jax.set_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
        found = jax.jit(lambda *x: Splash(interpret=True)(*x[:3], None, x[3:]))(q, k, v, segments)
    np.testing.assert_allclose(found, attention(q, k, v, segments), atol=2e-5)


def test_runs_of_segments() -> None:
    ids = jnp.asarray([[1, 1, 2, 3, 3, 0], [1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6]], jnp.int32)
    offsets, lengths, fits = segment_runs(ids, 4)
    np.testing.assert_array_equal(offsets[:2], [[0, 2, 3, 5, -1], [0, -1, -1, -1, -1]])
    np.testing.assert_array_equal(lengths[:2], [[2, 1, 2, 1], [6, -1, -1, -1]])
    np.testing.assert_array_equal(fits, [True, True, False])
    with pytest.raises(UserError, match="at least 6"):
        Cudnn(max_segments=4).check_batch({"segment_ids": np.asarray(ids)})
    Cudnn(max_segments=6).check_batch({"segment_ids": np.asarray(ids)})


def test_what_cudnn_is_asked_is_the_reference(monkeypatch) -> None:
    """The binding's place is taken by its documentation: attention inside the runs that offsets and lengths name."""
    assert cudnn.binding_problem() is None, "this version of jax has another binding"
    from jax._src.cudnn import fused_attention_stablehlo as binding

    def documented(
        query, key, value, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type, sliding_window_length
    ):
        assert mask_type is binding.MaskType.PADDING_CAUSAL and abs(scale - query.shape[-1] ** -0.5) < 1e-9
        assert q_offsets.shape[1] == q_seqlen.shape[1] + 1 and query.shape == key.shape == value.shape
        at = jnp.arange(query.shape[1])
        inside = (
            (at >= q_offsets[:, :-1, None])
            & (at < (q_offsets[:, :-1] + q_seqlen)[..., None])
            & (q_seqlen >= 0)[..., None]
        )
        run = jnp.argmax(inside, axis=1)
        return attention(query, key, value, run, window=sliding_window_length)

    monkeypatch.setattr(binding, "dot_product_attention", documented)
    config = tiny_config(sliding_window=5, sliding_layers=(True, False, True))
    prove("cudnn", Cudnn(window=5, max_segments=8), config, jnp.bfloat16)
    assert_isolated_and_causal(Cudnn(max_segments=8), jnp.bfloat16)
    q, k, v, segments = inputs()
    assert np.isnan(Cudnn(max_segments=2)(q, k, v, None, (segments,))).all(), "too many segments must not give numbers"


@pytest.mark.gpu
@pytest.mark.parametrize(
    "kind", [{}, {"sliding_window": 9}, {"sliding_window": 130, "sliding_layers": (True, False, True)}]
)
def test_cudnn_gives_the_reference_on_a_gpu(kind) -> None:
    config = tiny_config(head_dim=64, **kind)
    prove("cudnn", Cudnn(window=config.sliding_window), config, jnp.bfloat16)
    assert_isolated_and_causal(Cudnn(), jnp.bfloat16)


@pytest.mark.tpu
@pytest.mark.parametrize("kind", KINDS)
def test_splash_gives_the_reference_on_a_tpu(kind) -> None:
    config = tiny_config(head_dim=128, **KINDS[kind])
    prove("splash", Splash(window=config.sliding_window), config, jnp.bfloat16)
