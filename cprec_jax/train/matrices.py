"""Parameters as the weight matrices that optimizers work on, found by their logical axes.

Parameters are stored with layers stacked and heads split.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from cprec_jax.train.leaves import leaf_name

Axes = Mapping[str, tuple[str, ...]]
"""The logical axes of each leaf by its name (`leaves.by_name` of the second result of `decoder.abstract_params`)."""

STACKED, SINGLE = "stacked", "single"


def is_stacked(axes: tuple[str, ...]) -> bool:
    """Whether a leaf with these logical axes has one entry per layer."""
    return axes[:1] == ("layers",)


def dimension_numbers(axes: tuple[str, ...]) -> MuonDimensionNumbers | None:
    """Which axes of a weight matrix are its input and its output; None for embedding, head, norms and biases.

    One side of a weight matrix is the residual stream (`embed`), or in an adapter the `rank`. The other side has one
    axis or two.
    """
    inner = tuple(axis for axis in range(len(axes)) if axes[axis] != "layers")
    single = "rank" if "rank" in axes else "embed"
    if single not in axes or "vocab" in axes:
        return None
    side = (axes.index(single),)
    others = tuple(axis for axis in inner if axis not in side)
    return MuonDimensionNumbers(side, others) if side[0] == inner[0] else MuonDimensionNumbers(others, side)


def as_matrices(tree: Any, axes: Axes) -> Any:
    """Weight matrices reshaped to [layers, input, output], or [input, output] without layers; other leaves as they
    are."""

    def as_matrix(path: Any, leaf: jax.Array) -> jax.Array:
        leaf_axes = axes[leaf_name(path)]
        numbers = dimension_numbers(leaf_axes)
        if numbers is None:
            return leaf
        sides = (tuple(numbers.reduction_axis), tuple(numbers.output_axis))  # type: ignore[arg-type]  # made as tuples above
        return leaf.reshape(
            *leaf.shape[: is_stacked(leaf_axes)], *(math.prod(leaf.shape[axis] for axis in side) for side in sides)
        )

    return jax.tree_util.tree_map_with_path(as_matrix, tree)


def per_layer(inner: optax.GradientTransformation, axes: Axes) -> optax.GradientTransformation:
    """`inner` applied to each layer's matrices (`as_matrices`), so that it factors or clips one matrix, not a stack."""
    labels = lambda tree: jax.tree_util.tree_map_with_path(  # noqa: E731
        lambda path, _: STACKED if is_stacked(axes[leaf_name(path)]) else SINGLE, tree
    )
    parts = optax.partition({STACKED: _over_layers(inner), SINGLE: inner}, labels)

    def init(params: Any) -> Any:
        return parts.init(as_matrices(params, axes))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        assert params is not None
        matrices, state = parts.update(as_matrices(updates, axes), state, as_matrices(params, axes))
        return jax.tree.map(lambda matrix, like: matrix.reshape(like.shape), matrices, updates), state

    return optax.GradientTransformation(init, update)


def _over_layers(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        return jax.vmap(inner.init)(params) if jax.tree.leaves(params) else inner.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return (
            jax.vmap(inner.update)(updates, state, params)
            if jax.tree.leaves(updates)
            else inner.update(updates, state, params)
        )

    return optax.GradientTransformation(init, update)
