"""The exact likelihood of titles among all titles of their catalogue.

Only branching nodes of the title trie need the head, and only the head's rows of their children.

B rows, T length, D model, V vocabulary, W wide decisions per row, A wide nodes, U tokens below them, G blocks per row
of Q narrow decisions with E tokens of children: see `catalogue_tables` and `catalogue_rows`.
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cprec_jax.parallel.rules import constrain
from cprec_jax.train.catalogue_tables import CatalogueTables

Temperature = float | tuple[float, ...] | Literal["adaptive"]
_Columns = Mapping[str, jax.Array]

ETA = 0.25  # the target's mean probability that the adaptive temperature aims at (see `_adaptive`)
LOWEST, HIGHEST = 1.5, 5.0  # limits of the adaptive temperature
_NEVER = -1e30  # the logit of a token that is no child; finite, so that padding gives no NaN


def catalogue_nll_sum(
    x_BTD: jax.Array, w_VD: jax.Array, columns: _Columns, tables: CatalogueTables, temperature: Temperature = 1.0
) -> jax.Array:
    """The sum over the rows' target items of -log p(title | catalogue) by the rule `trie`: nats, a float32 scalar.

    Titles that tokenise alike share their probability equally: the column `log_copies` adds that to the sum.

    Args:
      x_BTD: final hidden states.
      w_VD: the head, cast to their dtype; logits and sums are float32.
      columns: `catalogue_rows.row_columns` of each row, stacked.
      temperature: divides the logits. Either a number; or one number per level, where the first decision of a title is
        level 0 and the last number holds for all further levels; or "adaptive": one number computed from these rows
        without a gradient (see `_adaptive`), which also multiplies the loss of the decisions, as in MSL (arXiv
        2504.04178). MSL's moving average is left out, because a step has no such state: each micro-batch has its own
        temperature.
    """
    given = {name: columns[name] for name in columns if name.startswith(("wide", "narrow")) or name == "decision"}
    decided = _decided_sum(
        x_BTD,
        w_VD,
        given,
        jnp.asarray(tables.union),
        jnp.asarray(tables.allowed),
        jnp.asarray(tables.is_first),
        temperature,
    )
    return decided + jnp.sum(columns["log_copies"])


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _decided_sum(
    x_BTD: jax.Array,
    w_VD: jax.Array,
    columns: _Columns,
    union_U: jax.Array,
    allowed_AU: jax.Array,
    is_first_A: jax.Array,
    temperature: Temperature,
) -> jax.Array:
    return _with_gradient(x_BTD, w_VD, columns, union_U, allowed_AU, is_first_A, temperature)[0]


def _with_gradient(
    x_BTD: jax.Array,
    w_VD: jax.Array,
    columns: _Columns,
    union_U: jax.Array,
    allowed_AU: jax.Array,
    is_first_A: jax.Array,
    temperature: Temperature,
) -> tuple[jax.Array, Any]:
    """The sum, and as residuals the gradients by what was gathered: hidden states, rows of the union, of the blocks."""
    B, _, D = x_BTD.shape
    # gathered over fsdp first, as for the embedding: rows gathered from a table sharded along D would be replicated
    w_VD = constrain(w_VD, "vocab", None)
    w_UD = w_VD[union_U].astype(x_BTD.dtype)
    wide_BWD = _states(x_BTD, columns["wide_position"])
    wide_BWU = jnp.einsum("bwd,ud->bwu", wide_BWD, w_UD, preferred_element_type=jnp.float32)
    is_child_BWU = allowed_AU[jnp.maximum(columns["wide_node"], 0)] & (columns["wide_node"] >= 0)[..., None]

    G, Q = columns["narrow_first"].shape[1:]
    w_BGED = w_VD[columns["narrow_tokens"]].astype(x_BTD.dtype)
    narrow_BGQD = _states(x_BTD, columns["narrow_position"].reshape(B, -1)).reshape(B, G, Q, D)
    narrow_BGQE = jnp.einsum("bgqd,bged->bgqe", narrow_BGQD, w_BGED, preferred_element_type=jnp.float32)
    place_E = jnp.arange(narrow_BGQE.shape[-1])
    is_child_BGQE = (place_E >= columns["narrow_first"][..., None]) & (place_E < columns["narrow_end"][..., None])

    factor: Any = 1.0
    if temperature == "adaptive":
        is_first_BW = (columns["wide_node"] >= 0) & is_first_A[jnp.maximum(columns["wide_node"], 0)]
        factor = _adaptive(wide_BWU, is_child_BWU, columns["wide_target"], is_first_BW)
        wide_tau, narrow_tau = factor, factor
    else:
        wide_tau, narrow_tau = (_of_level(temperature, columns[f"{kind}_level"]) for kind in ("wide", "narrow"))
    wide_sum, dlogits_BWU = _softmax_loss(wide_BWU, is_child_BWU, columns["wide_target"], wide_tau, factor)
    narrow_sum, dlogits_BGQE = _softmax_loss(narrow_BGQE, is_child_BGQE, columns["narrow_target"], narrow_tau, factor)

    dlogits_BWU, dlogits_BGQE = dlogits_BWU.astype(x_BTD.dtype), dlogits_BGQE.astype(x_BTD.dtype)
    gradients = {
        "wide": jnp.einsum("bwu,ud->bwd", dlogits_BWU, w_UD),
        "narrow": jnp.einsum("bgqe,bged->bgqd", dlogits_BGQE, w_BGED).reshape(B, G * Q, D),
        "union": jnp.einsum("bwu,bwd->ud", dlogits_BWU, wide_BWD, preferred_element_type=jnp.float32),
        "tokens": jnp.einsum("bgqe,bgqd->bged", dlogits_BGQE, narrow_BGQD, preferred_element_type=jnp.float32),
    }
    kept = (columns["decision"], columns["narrow_tokens"], union_U, jnp.zeros((w_VD.shape[0], 0), w_VD.dtype))
    return wide_sum + narrow_sum, (gradients, kept)


def _backward(temperature: Temperature, residuals: Any, cotangent: jax.Array) -> tuple[Any, ...]:
    """Gradients by all hidden states and by the whole head, from those by the gathered ones."""
    gradients, (decision_BT, tokens_BGE, union_U, like_V0) = residuals
    dwide_BWD, dnarrow_BND = gradients["wide"], gradients["narrow"]
    nothing_B1D = jnp.zeros_like(dwide_BWD[:, :1])
    # a gather instead of a scatter: a position has at most one decision
    decided = jnp.concatenate([dwide_BWD, dnarrow_BND, nothing_B1D], axis=1) * cotangent.astype(dwide_BWD.dtype)
    dx_BTD = jnp.take_along_axis(decided, decision_BT[..., None], axis=1)
    dw_VD = constrain(jnp.zeros((len(like_V0), dx_BTD.shape[-1]), jnp.float32), "vocab", None)
    dw_VD = dw_VD.at[union_U].add(gradients["union"] * cotangent, unique_indices=True, indices_are_sorted=True)
    # each device sums over its own rows; sharded along D, the rows' gradients would be sent to every device first
    dtokens_BGED = constrain(gradients["tokens"] * cotangent, "batch", None, None, None)
    dw_VD = constrain(dw_VD.at[tokens_BGE].add(dtokens_BGED), "vocab", None)
    return dx_BTD, constrain(dw_VD.astype(like_V0.dtype), "vocab", "embed"), None, None, None, None


_decided_sum.defvjp(_with_gradient, _backward)


def _states(x_BTD: jax.Array, position_BN: jax.Array) -> jax.Array:
    return constrain(jnp.take_along_axis(x_BTD, position_BN[..., None], axis=1), "batch", None, None)


def _softmax_loss(
    logits: jax.Array, is_child: jax.Array, target: jax.Array, tau: jax.Array, factor: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """factor * sum(-log softmax(logits / tau)[target]), and its gradient by the logits.

    The softmax is over the last axis, among children only; without a child the loss is 0.

    Args:
      logits, is_child: [..., n].
      target, tau: [...].
    """
    is_target = (jnp.arange(logits.shape[-1]) == target[..., None]) & is_child
    scaled = jnp.where(is_child, logits / tau[..., None], _NEVER)
    top = jnp.max(scaled, axis=-1, keepdims=True)
    exp = jnp.where(is_child, jnp.exp(scaled - top), 0.0)
    total = jnp.sum(exp, axis=-1, keepdims=True)
    some = total > 0
    loss = jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + top, 0.0)
    loss = jnp.sum(loss) - jnp.sum(jnp.where(is_target, scaled, 0.0))
    dlogits = (exp / jnp.where(some, total, 1.0) - is_target) * (factor / tau[..., None])
    return factor * loss, dlogits


def _of_level(temperature: float | tuple[float, ...], level: jax.Array) -> jax.Array:
    """The temperature of each decision, float32 in the shape of `level`."""
    if not isinstance(temperature, tuple):
        return jnp.full(level.shape, temperature, jnp.float32)
    return jnp.asarray(temperature, jnp.float32)[jnp.minimum(level, len(temperature) - 1)]


def _adaptive(
    logits_BWU: jax.Array, is_child_BWU: jax.Array, target_BW: jax.Array, is_first_BW: jax.Array
) -> jax.Array:
    """MSL's temperature (arXiv 2504.04178), a float32 scalar, from the first decisions of these rows' titles.

    For normally distributed logits the mean probability of a target is ETA at

        tau = (d + sqrt(max(0, d^2 - 2 C s^2))) / (2 C)

    d: mean logit of targets minus mean logit of children. s^2: variance of the children's logits. C: log(ETA * mean
    number of children). tau is clipped to [LOWEST, HIGHEST]; that also covers at most 1 / ETA children, where C is not
    positive.
    """
    used_BWU = is_child_BWU & is_first_BW[..., None]
    children, decisions = jnp.sum(used_BWU, dtype=jnp.float32), jnp.sum(is_first_BW, dtype=jnp.float32)
    one, some = jnp.maximum(decisions, 1.0), jnp.maximum(children, 1.0)
    is_target_BWU = (jnp.arange(logits_BWU.shape[-1]) == target_BW[..., None]) & used_BWU
    mean = jnp.sum(jnp.where(used_BWU, logits_BWU, 0.0)) / some
    variance = jnp.sum(jnp.where(used_BWU, (logits_BWU - mean) ** 2, 0.0)) / some
    difference = jnp.sum(jnp.where(is_target_BWU, logits_BWU, 0.0)) / one - mean
    c = jnp.maximum(jnp.log(ETA * some / one), 1e-6)
    tau = (difference + jnp.sqrt(jnp.maximum(0.0, difference**2 - 2 * c * variance))) / (2 * c)
    return jax.lax.stop_gradient(jnp.clip(tau, LOWEST, HIGHEST))
