"""The attention backend of a run: chosen by device or config, named in the log, checked against the reference.

A backend that was asked for by name is never replaced silently.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.errors import UserError, one_line
from cprec_jax.model.attention import AttendFn, PackedAttendFn, packed_attention
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.kernels import cudnn, splash
from cprec_jax.progress import say

BACKENDS = ("auto", "xla", "cudnn", "splash")
# cuDNN is compiled for multiples of this: few different programs, and more segments than the rows of `prove` have
SEGMENTS_MULTIPLE = 8
# relative to the largest entry: room for bfloat16 and another order of summation; an ignored mask differs by nearly 1
TOLERANCE = 0.03


def attend_for(
    name: str,
    config: DecoderConfig,
    dtype: Any,
    row_length: int,
    max_segments: int | None = None,
    most_segments: int | None = None,
) -> PackedAttendFn:
    """The attend function for packed rows of `row_length` tokens on this process's devices.

    Args:
      name: one of `BACKENDS`. "auto" chooses cuDNN on an NVIDIA GPU and splash on a TPU where they support the model,
        else `xla`; the log says which and why.
      max_segments: the segments per row that cuDNN is compiled for; None: `most_segments`, or `cudnn.MAX_SEGMENTS`
        where that is unknown.
      most_segments: the most segments in a row, padding included; None: unknown.

    A fused backend is first compared with the reference on small packed rows, forward and backward (`prove`). Raises
    `UserError` for a backend that was asked for by name and cannot be used, and for one that fails the comparison.
    """
    limit = max_segments or most_segments or cudnn.MAX_SEGMENTS
    too_many = None
    if most_segments is not None and most_segments > limit:
        too_many = (
            f"a row holds up to {most_segments} documents and padding, config.model.attention_segments is {limit}"
        )
    chosen, reason = choose(name, config, dtype, row_length, jax.local_devices()[0], too_many)
    say(f"attention: {chosen} ({reason})")
    attend = backend(chosen, config, -(-limit // SEGMENTS_MULTIPLE) * SEGMENTS_MULTIPLE)
    if chosen != "xla":
        prove(chosen, attend, config, dtype)
    return attend


def choose(
    name: str, config: DecoderConfig, dtype: Any, row_length: int, device: Any, too_many: str | None = None
) -> tuple[str, str]:
    """(backend, reason). too_many: the message for rows with too many segments for cuDNN; None where there are none.

    Raises `UserError` for an unknown backend, and for one that was asked for by name and cannot be used.
    """
    if name not in BACKENDS:
        raise UserError(f"config.model.attention: no backend {name!r}; choose one of: {', '.join(BACKENDS)}")
    if name == "xla":
        return name, "config.model.attention"
    problems = {
        "cudnn": lambda: _cudnn_problem(config, dtype, row_length, device) or too_many,
        "splash": lambda: _splash_problem(row_length, device),
    }
    if name != "auto":
        problem = problems[name]()
        if problem is not None:
            raise UserError(f"config.model.attention: {name} cannot be used: {problem}; set it to 'auto' or 'xla'")
        return name, "config.model.attention"
    fused = {"gpu": "cudnn", "tpu": "splash"}.get(device.platform)
    if fused is None:
        return "xla", f"device {device.platform}"
    problem = problems[fused]()
    return ("xla", f"not {fused}: {problem}") if problem is not None else (fused, f"device {device.device_kind}")


def _cudnn_problem(config: DecoderConfig, dtype: Any, row_length: int, device: Any) -> str | None:
    if device.platform != "gpu" or "." not in str(getattr(device, "compute_capability", "")):
        return f"it needs an NVIDIA GPU, this is {device.platform}"
    if int(str(device.compute_capability).split(".")[0]) < 9:
        return f"packed rows need compute capability 9.0 (Hopper), {device.device_kind} has {device.compute_capability}"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, config.model.dtype is {jnp.dtype(dtype).name}"
    if config.head_dim > 256 or config.head_dim % 8:
        return f"head_dim {config.head_dim} is not a multiple of 8 up to 256"
    if config.attention_softcap is not None:
        return "it has no soft cap on scores, which this model needs"
    if row_length % cudnn.ROW_MULTIPLE:
        return f"config.pack.row_length {row_length} is not a multiple of {cudnn.ROW_MULTIPLE}"
    return cudnn.binding_problem()


def _splash_problem(row_length: int, device: Any) -> str | None:
    if device.platform != "tpu":
        return f"it needs a TPU, this is {device.platform}"
    if row_length % splash.ROW_MULTIPLE:
        return f"config.pack.row_length {row_length} is not a multiple of {splash.ROW_MULTIPLE}"
    return None


def backend(name: str, config: DecoderConfig, max_segments: int = cudnn.MAX_SEGMENTS) -> PackedAttendFn:
    """The attend function of a backend, not compared with the reference: to compile for devices that are not here."""
    if name == "cudnn":
        return cudnn.Cudnn(window=config.sliding_window, max_segments=max_segments)
    return splash.Splash(window=config.sliding_window) if name == "splash" else packed_attention()


def prove(name: str, attend: AttendFn, config: DecoderConfig, dtype: Any, length: int = 256) -> None:
    """Compare `attend` with the reference on random packed rows: output and gradients, for every window of the model.

    Raises `UserError` where it differs or does not run. Why: a kernel that ignored segments once passed for faster
    training (maxtext#4476).
    """
    rng = np.random.default_rng(0)
    shapes = [
        (2, length, heads, config.head_dim) for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    ]
    q, k, v = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    weights = jnp.asarray(rng.normal(size=shapes[0]), jnp.float32)
    segments = np.stack(
        [np.repeat([1, 2, 3, 0], np.diff([0, a, b, c, length])) for a, b, c in ((100, 101, 230), (7, 128, 200))]
    )
    context = (jnp.asarray(segments, jnp.int32),)
    softcap: dict[str, Any] = {} if config.attention_softcap is None else {"softcap": config.attention_softcap}
    some: dict[str, Any] = {} if config.sliding_window is None else {"window": config.sliding_window}

    for extra in [some] if config.sliding_layers is None else [some, {}]:

        def measured(q: jax.Array, k: jax.Array, v: jax.Array, extra: Any = extra) -> tuple[jax.Array, jax.Array]:
            out = attend(q, k, v, None, context, **extra, **softcap).astype(jnp.float32)
            return jnp.sum(out * weights), out

        def expected(q: jax.Array, k: jax.Array, v: jax.Array, extra: Any = extra) -> tuple[jax.Array, jax.Array]:
            out = packed_attention()(*(x.astype(jnp.float32) for x in (q, k, v)), None, context, **extra, **softcap)
            return jnp.sum(out * weights), out

        try:
            measured_values = _output_and_gradients(measured, q, k, v)
        except Exception as error:  # the exception types depend on the device
            raise UserError(
                f"attention backend {name} does not run here ({one_line(error)[:300]}); set config.model.attention"
            ) from error
        wanted = _output_and_gradients(expected, q, k, v)
        for what, a, b in zip(("output", "dq", "dk", "dv"), measured_values, wanted, strict=True):
            worst = float(np.abs(a - b).max() / np.abs(b).max())
            if not worst < TOLERANCE:  # also NaN
                raise UserError(
                    f"attention backend {name} differs from the reference here ({what}: {worst:.3g} of the largest "
                    "entry); set config.model.attention='xla'"
                )


def _output_and_gradients(total_and_output: Any, q: jax.Array, k: jax.Array, v: jax.Array) -> list[np.ndarray]:
    (_, out), gradients = jax.jit(jax.value_and_grad(total_and_output, (0, 1, 2), has_aux=True))(q, k, v)
    return [np.asarray(x, np.float32) for x in jax.device_get((out, *gradients))]
