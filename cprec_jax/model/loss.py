"""Chunked cross-entropy: the B x T x V logits never exist, and the gradient is computed in the forward pass.

B batch, T length, D model, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp

_Gradients = tuple[jax.Array, jax.Array]  # of x [B, T, D] and w [V, D]


def next_token_targets(
    tokens_BT: jax.Array, segment_ids_BT: jax.Array, loss_mask_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Labels int32[B, T] and weights float32[B, T] of next-token prediction.

    Position t predicts t + 1 where both belong to one document; its weight is the loss mask of t + 1, elsewhere 0.
    """
    labels_BT = jnp.roll(tokens_BT, -1, axis=1)
    same_BT = (jnp.roll(segment_ids_BT, -1, axis=1) == segment_ids_BT) & (segment_ids_BT > 0)
    same_BT = same_BT.at[:, -1].set(False)
    return labels_BT, jnp.where(same_BT, jnp.roll(loss_mask_BT, -1, axis=1), 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def cross_entropy_sum(
    x_BTD: jax.Array, w_VD: jax.Array, labels_BT: jax.Array, weights_BT: jax.Array, chunk: int
) -> jax.Array:
    """sum(weights * -log softmax(x @ w.T)[labels]) in nats, a float32 scalar, `chunk` positions of every row at a time.

    Under differentiation each chunk's gradient is computed while its logits exist: three matrix products per
    chunk instead of four with recomputation. The head is cast to the dtype of x inside the chunk, so that its gradient
    is summed in float32. T must be a multiple of `chunk`.
    """
    return _forward(x_BTD, w_VD, labels_BT, weights_BT, chunk)[0]


def _chunks(array: jax.Array, chunk: int) -> jax.Array:
    b, t = array.shape[:2]
    assert t % chunk == 0, (t, chunk)
    return jnp.moveaxis(array.reshape(b, t // chunk, chunk, *array.shape[2:]), 1, 0)


def _logits(x: jax.Array, w_VD: jax.Array) -> jax.Array:
    return jnp.einsum("bcd,vd->bcv", x, w_VD.astype(x.dtype), preferred_element_type=jnp.float32)


def _forward(
    x_BTD: jax.Array, w_VD: jax.Array, labels_BT: jax.Array, weights_BT: jax.Array, chunk: int
) -> tuple[jax.Array, None]:
    def body(total: jax.Array, piece: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        x, labels, weights = piece
        logits = _logits(x, w_VD)
        picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        return total + jnp.sum(weights * (jax.nn.logsumexp(logits, axis=-1) - picked)), None

    pieces = (_chunks(x_BTD, chunk), _chunks(labels_BT, chunk), _chunks(weights_BT, chunk))
    return jax.lax.scan(body, jnp.zeros((), jnp.float32), pieces)[0], None


def _forward_with_gradient(
    x_BTD: jax.Array, w_VD: jax.Array, labels_BT: jax.Array, weights_BT: jax.Array, chunk: int
) -> tuple[jax.Array, _Gradients]:
    def body(
        carry: tuple[jax.Array, jax.Array], piece: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        total, dw_DV = carry
        x, labels, weights = piece
        logits = _logits(x, w_VD)
        top = jnp.max(logits, axis=-1, keepdims=True)
        exp = jnp.exp(logits - top)
        normaliser = jnp.sum(exp, axis=-1, keepdims=True)
        picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)
        loss = jnp.sum(weights[..., None] * (jnp.log(normaliser) + top - picked))
        dlogits = exp * (weights[..., None] / normaliser)
        hit = labels[..., None] == jnp.arange(logits.shape[-1], dtype=labels.dtype)
        dlogits = jnp.where(hit, dlogits - weights[..., None], dlogits)
        dlogits = dlogits.astype(x.dtype)
        dx = jnp.einsum("bcv,vd->bcd", dlogits, w_VD.astype(x.dtype))
        # D x V, transposed once at the end: with V x D a CPU transposes the logits of every chunk (a tenth of its time)
        dw_DV = dw_DV + jnp.einsum("bcd,bcv->dv", x, dlogits, preferred_element_type=jnp.float32)
        return (total + loss, dw_DV), dx

    pieces = (_chunks(x_BTD, chunk), _chunks(labels_BT, chunk), _chunks(weights_BT, chunk))
    zero = (jnp.zeros((), jnp.float32), jnp.zeros(w_VD.shape[::-1], jnp.float32))
    (total, dw_DV), dx = jax.lax.scan(body, zero, pieces)
    dx_BTD = jnp.moveaxis(dx, 0, 1).reshape(x_BTD.shape)
    return total, (dx_BTD, dw_DV.T.astype(w_VD.dtype))


def _backward(chunk: int, residuals: _Gradients, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, None, None]:
    dx_BTD, dw_VD = residuals
    return dx_BTD * cotangent.astype(dx_BTD.dtype), dw_VD * cotangent.astype(dw_VD.dtype), None, None


cross_entropy_sum.defvjp(_forward_with_gradient, _backward)


def chunk_for(length: int, wanted: int) -> int:
    """The largest divisor of `length` that is at most `wanted`."""
    return next(size for size in range(min(wanted, length), 0, -1) if length % size == 0)
