"""Fused cuDNN attention over packed rows (NVIDIA Hopper and later).

It uses jax's private binding, because the public one does not support segments.
"""

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.errors import UserError
from cprec_jax.model.attention import PackedContext
from cprec_jax.model.kernels.sharded import on_each_device, with_static_window

ROW_MULTIPLE = 128  # T % 128 == 64 gave NaN gradients on Hopper (pytorch#196678)
MAX_SEGMENTS = 64  # per row, where the rows' own maximum is unknown
ARGUMENTS = {
    "query",
    "key",
    "value",
    "q_seqlen",
    "kv_seqlen",
    "q_offsets",
    "kv_offsets",
    "scale",
    "mask_type",
    "sliding_window_length",
}


@dataclass(frozen=True, kw_only=True)
class Cudnn:
    """An `AttendFn` over packed rows: bfloat16 or float16, causal inside each segment, without a soft cap.

    window: of the layers that have one.
    max_segments: the most segments per row, padding included. It is part of the compiled program, whose memory grows
      with it. A row with more gives NaN, never a wrong number; `check_batch` refuses its batch before that.
    """

    window: int | None = None
    max_segments: int = MAX_SEGMENTS

    def __call__(
        self,
        q_BTHh: jax.Array,
        k_BTKh: jax.Array,
        v_BTKh: jax.Array,
        past: None,
        context: PackedContext,
        *,
        window: int | jax.Array | None = None,
    ) -> jax.Array:
        assert past is None, "packed rows have no past"
        (segment_ids_BT,) = context

        def run(static: int | None) -> jax.Array:
            kernel = functools.partial(_attend, window=static, max_segments=self.max_segments)
            return on_each_device(kernel, q_BTHh, k_BTKh, v_BTKh, segment_ids_BT)

        return with_static_window(run, window, self.window)

    def check_batch(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raise `UserError` for a row with more segments than the program was compiled for."""
        segment_ids_BT = batch["segment_ids"]
        most = 1 + int((segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]).sum(axis=1).max(initial=0))
        if most > self.max_segments:
            raise UserError(
                f"config.model.attention_segments: {self.max_segments}, but a row holds {most} documents and padding; "
                f"set it to at least {most} and go on (or pack again: newer rows say how many they hold)"
            )


def binding_problem() -> str | None:
    """Why jax's private binding cannot be used; None where it can. Any version of jax may change it."""
    try:
        from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention
    except ImportError as error:
        return f"jax {jax.__version__} has no packed cuDNN attention where it used to be ({error})"
    missing = ARGUMENTS - set(inspect.signature(dot_product_attention).parameters)
    if missing or not hasattr(MaskType, "PADDING_CAUSAL"):
        return (
            f"jax {jax.__version__} has another cuDNN attention (missing: "
            f"{', '.join(sorted(missing)) or 'PADDING_CAUSAL'})"
        )
    return None


def segment_runs(segment_ids_BT: jax.Array, max_segments: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Runs of equal ids: their first positions, their lengths, and whether each row has at most `max_segments` runs.

    Padding is a run, too, so that every position belongs to one.

    Returns int32[B, max_segments + 1] and int32[B, max_segments], both padded with -1, and bool[B].
    """
    T = segment_ids_BT.shape[1]
    begins_BT = jnp.concatenate(
        [jnp.ones_like(segment_ids_BT[:, :1], bool), segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]], axis=1
    )
    first = jax.vmap(lambda begins: jnp.nonzero(begins, size=max_segments + 1, fill_value=T)[0])(begins_BT).astype(
        jnp.int32
    )
    length = first[:, 1:] - first[:, :-1]
    fits_B = jnp.sum(begins_BT, axis=1) <= max_segments
    return jnp.where(first < T, first, -1), jnp.where(length > 0, length, -1), fits_B


def _attend(
    q_BTHh: jax.Array,
    k_BTKh: jax.Array,
    v_BTKh: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    window: int | None,
    max_segments: int,
) -> jax.Array:
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

    offsets, lengths, fits_B = segment_runs(segment_ids_BT, max_segments)
    # The binding applies the queries' stride to the offsets of keys, so packed rows need as many key/value heads as
    # query heads.
    groups = q_BTHh.shape[2] // k_BTKh.shape[2]
    k_BTHh, v_BTHh = (x if groups == 1 else jnp.repeat(x, groups, axis=2) for x in (k_BTKh, v_BTKh))
    o_BTHh = dot_product_attention(
        q_BTHh,
        k_BTHh,
        v_BTHh,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=q_BTHh.shape[-1] ** -0.5,
        mask_type=MaskType.PADDING_CAUSAL,
        sliding_window_length=window,
    )
    return jnp.where(fits_B[:, None, None, None], o_BTHh, jnp.nan)
