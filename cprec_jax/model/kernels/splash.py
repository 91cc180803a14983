"""Splash attention (TPU, jax's Pallas kernel): empty blocks of the mask are skipped, scores stay on the chip."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from cprec_jax.model.attention import ATTENTION_OUTPUT, PackedContext
from cprec_jax.model.kernels.sharded import on_each_device, with_static_window

ROW_MULTIPLE = 128  # the lanes of a TPU
BLOCKS = (512, 256, 128)


@dataclass(frozen=True, kw_only=True)
class Splash:
    """An `AttendFn` over packed rows whose length is a multiple of `ROW_MULTIPLE`.

    window: of the layers that have one.
    interpret: run the kernel in interpret mode, on any device; for tests.
    """

    window: int | None = None
    interpret: bool = False

    def __call__(
        self,
        q_BTHh: jax.Array,
        k_BTKh: jax.Array,
        v_BTKh: jax.Array,
        past: None,
        context: PackedContext,
        *,
        window: int | jax.Array | None = None,
        softcap: float | None = None,
    ) -> jax.Array:
        assert past is None, "packed rows have no past"
        (segment_ids_BT,) = context

        def run(static: int | None) -> jax.Array:
            kernel = functools.partial(_attend, window=static, softcap=softcap, interpret=self.interpret)
            return on_each_device(kernel, q_BTHh, k_BTKh, v_BTKh, segment_ids_BT)

        return with_static_window(run, window, self.window)

    def check_batch(self, batch: Mapping[str, np.ndarray]) -> None:
        """Accept any packed rows."""


def _attend(
    q_BTHh: jax.Array,
    k_BTKh: jax.Array,
    v_BTKh: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    window: int | None,
    softcap: float | None,
    interpret: bool,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    _, T, H, h = q_BTHh.shape
    size = next(block for block in BLOCKS if T % block == 0)
    blocks = splash.BlockSizes(
        block_q=size,
        block_kv=size,
        block_kv_compute=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_kv_dkv_compute=size,
        block_q_dq=size,
        block_kv_dq=size,
    )
    mask: Any = splash.CausalMask((T, T)) if window is None else splash.LocalMask((T, T), (window - 1, 0), 0)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * H),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name=ATTENTION_OUTPUT,  # so that `remat="dots"` stores what the backward pass needs
        interpret=interpret,
    )
    q_BHTh, k_BKTh, v_BKTh = (x.swapaxes(1, 2) for x in (q_BTHh * h**-0.5, k_BTKh, v_BTKh))
    o_BHTh = jax.vmap(kernel)(q_BHTh, k_BKTh, v_BKTh, splash.SegmentIds(q=segment_ids_BT, kv=segment_ids_BT))
    return o_BHTh.swapaxes(1, 2).astype(q_BTHh.dtype)
