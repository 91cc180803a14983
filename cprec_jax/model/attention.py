"""Attention over packed rows, and the projections around it.

B batch, T query length, S key length, D model, H query heads, K key/value heads, G = H / K, h head dim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.layers import apply_rope, bias, norm_scale, project, residual_std, rms_norm, weight
from cprec_jax.model.lora import Adapters, add_adapter
from cprec_jax.model.partial_attention import attend_by_head, by_head, by_position, normalise
from cprec_jax.parallel.rules import constrain

AttendFn = Callable[..., jax.Array]
"""attend(q_BTHh, k_BTKh, v_BTKh, past, context, **extra) -> o_BTHh.

q_BTHh: unscaled; the function multiplies scores by head_dim ** -0.5.
past: the layer's slice of the decoder's `past`, or None.
context: the decoder's `context`, the same in every layer.
window (in `extra`): a query sees keys fewer than `window` positions before it; an int, or a traced int32 scalar where
  layers differ.
softcap (in `extra`): scores become softcap * tanh(scores / softcap).

The decoder reads neither `past` nor `context`; each function names the tuples it expects. `window` and `softcap` are
passed ONLY for configs that have them, so that a function without support for them fails instead of ignoring them.
"""

Past = tuple[jax.Array, ...]
"""Keys and values of earlier positions, after rotation; in the decoder's argument with a leading layer axis."""

Context = tuple[jax.Array, ...]
"""What an attend function needs besides queries, keys and values: segment ids, lengths, masks."""

KeysValues = tuple[jax.Array, jax.Array]  # [B, S, K, h] each, keys after rotation
PackedContext = tuple[jax.Array]  # (segment_ids_BT,), 0 = padding; packed rows have no past

NO_WINDOW = 2**30  # larger than any row
ATTENTION_OUTPUT = "attention_output"  # for policies of `jax.checkpoint`


class PackedAttendFn(Protocol):
    """An `AttendFn` over packed rows, for training. It checks each batch on the host before the step that reads it."""

    def __call__(self, *args: Any, **extra: Any) -> jax.Array: ...

    def check_batch(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raise `UserError` for rows that this function does not support."""


def packed_attention() -> PackedAttendFn:
    """The reference over packed rows, in plain XLA: causal inside each segment.

    Its `context` is (segment_ids_BT,), 0 = padding. `model/backends.py` chooses between it and the fused kernels.
    """
    return _REFERENCE


@dataclass(frozen=True)
class _Reference:
    def __call__(
        self,
        q_BTHh: jax.Array,
        k_BTKh: jax.Array,
        v_BTKh: jax.Array,
        past: None,
        context: PackedContext,
        **extra: Any,
    ) -> jax.Array:
        assert past is None, "packed rows have no past; evaluation and generation have their own attend functions"
        (segment_ids_BT,) = context
        return attention(q_BTHh, k_BTKh, v_BTKh, segment_ids_BT, **extra)

    def check_batch(self, batch: Mapping[str, np.ndarray]) -> None:
        """Accept any packed rows."""


_REFERENCE = _Reference()


def attention(
    q_BTHh: jax.Array,
    k_BTKh: jax.Array,
    v_BTKh: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    window: int | jax.Array | None = None,
    softcap: float | None = None,
    block: int = 128,
) -> jax.Array:
    """Causal attention inside segments, in plain XLA: o_BTHh in the dtype of `q_BTHh`, softmax in float32.

    Queries are processed in blocks. A block sees only the keys up to its end, so nearly half of the scores are never
    computed. The backward pass recomputes a block's scores instead of storing them: memory grows with T, not with its
    square. On a CPU that costs no speed, because stored scores would have to be written and read.

    Args:
      segment_ids_BT: int32; padding (0) is a segment of its own.
      window, softcap: see `AttendFn`.
      block: queries per block.
    """
    T = q_BTHh.shape[1]
    q_BKGTh, k_BKSh, v_BKSh = by_head(q_BTHh, k_BTKh.shape[2]), k_BTKh.swapaxes(1, 2), v_BTKh.swapaxes(1, 2)
    attend = jax.checkpoint(_attend, static_argnums=(4,))
    outputs = []
    for start in range(0, T, block):
        stop = min(start + block, T)
        index_T, index_S = jnp.arange(start, stop)[:, None], jnp.arange(stop)[None, :]
        mask_TS = index_S <= index_T
        if window is not None:
            mask_TS &= index_T - index_S < window
        mask_BTS = mask_TS & (segment_ids_BT[:, start:stop, None] == segment_ids_BT[:, None, :stop])
        outputs.append(
            attend(q_BKGTh[:, :, :, start:stop], k_BKSh[:, :, :stop], v_BKSh[:, :, :stop], mask_BTS, softcap)
        )
    return by_position(jnp.concatenate(outputs, axis=3) if len(outputs) > 1 else outputs[0])


def _attend(
    q_BKGTh: jax.Array, k_BKSh: jax.Array, v_BKSh: jax.Array, mask_BTS: jax.Array, softcap: float | None
) -> jax.Array:
    return normalise(attend_by_head(q_BKGTh, k_BKSh, v_BKSh, mask_BTS, softcap)).astype(q_BKGTh.dtype)


class Attention(nn.Module):
    """Projections, query and key norms, and rotary embedding around `attend`.

    Returns (out_BTD, (k_BTKh, v_BTKh)), keys after rotation.
    """

    config: DecoderConfig
    dtype: jnp.dtype
    attend: AttendFn
    adapters: Adapters | None = None
    deterministic: bool = True  # of the adapters' dropout

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        tables: tuple[jax.Array, jax.Array],
        window: int | jax.Array | None,
        past: Past | None,
        context: Context | None,
    ) -> tuple[jax.Array, KeysValues]:
        c = self.config
        D, H, h = c.hidden_size, c.num_heads, c.head_dim
        q_BTHh = self._project(x_BTD, "q", c.num_heads, "heads")
        k_BTKh = self._project(x_BTD, "k", c.num_kv_heads, "kv_heads")
        v_BTKh = self._project(x_BTD, "v", c.num_kv_heads, "kv_heads")
        q_BTHh, k_BTKh = self._qk_norm("q_norm", q_BTHh), self._qk_norm("k_norm", k_BTKh)
        q_BTHh, k_BTKh = apply_rope(q_BTHh, tables), apply_rope(k_BTKh, tables)
        if c.query_scalar is not None and c.query_scalar != h:
            q_BTHh = q_BTHh * (h / c.query_scalar) ** 0.5  # attend divides by sqrt(h)
        extra: dict[str, Any] = {} if window is None else {"window": window}
        if c.attention_softcap is not None:
            extra["softcap"] = c.attention_softcap
        o_BTHh = checkpoint_name(self.attend(q_BTHh, k_BTKh, v_BTKh, past, context, **extra), ATTENTION_OUTPUT)
        o_BTHh = constrain(o_BTHh, "batch", "length", "heads", "head_dim")
        axes = ("heads", "head_dim", "embed")
        o_HhD = self.param("o", weight(residual_std(c), *axes), (H, h, D))
        out_BTD = project(o_BTHh, o_HhD.astype(self.dtype), 2)
        out_BTD = self._add_adapter("o", out_BTD, o_BTHh, axes, (H, h, D), contracted=2)
        if c.attention_out_bias:
            out_BTD += self.param("o_bias", bias("norm"), (D,)).astype(self.dtype)
        return out_BTD, (k_BTKh, v_BTKh)

    def _project(self, x_BTD: jax.Array, name: str, heads: int, axis: str) -> jax.Array:
        c = self.config
        axes, shape = ("embed", axis, "head_dim"), (c.hidden_size, heads, c.head_dim)
        w_DHh = self.param(name, weight(c.initializer_range, *axes), shape)
        y_BTHh = self._add_adapter(name, project(x_BTD, w_DHh.astype(self.dtype)), x_BTD, axes, shape)
        if c.attention_bias:
            y_BTHh += self.param(f"{name}_bias", bias(axis, "head_dim"), (heads, c.head_dim)).astype(self.dtype)
        return constrain(y_BTHh, "batch", "length", axis, "head_dim")

    def _add_adapter(
        self, name: str, y: jax.Array, x: jax.Array, axes: tuple[str, ...], shape: tuple[int, ...], contracted: int = 1
    ) -> jax.Array:
        return add_adapter(
            self, self.adapters, name, y, x, axes, shape, contracted=contracted, deterministic=self.deterministic
        )

    def _qk_norm(self, name: str, x_BTHh: jax.Array) -> jax.Array:
        c = self.config
        if c.qk_norm == "none":
            return x_BTHh
        if c.qk_norm == "head":
            return rms_norm(x_BTHh, self.param(name, norm_scale(c), (c.head_dim,)), c)
        flat = x_BTHh.reshape(*x_BTHh.shape[:2], -1)
        return rms_norm(flat, self.param(name, norm_scale(c), flat.shape[-1:]), c).reshape(x_BTHh.shape)
