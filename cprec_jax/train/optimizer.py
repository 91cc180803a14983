"""Optimizers by kind, of optax's parts: clipping by the global norm, the kind's own scaling, decoupled weight decay,
the learning rate."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import scale_by_muon

from cprec_jax.config.train import OptimizerSpec
from cprec_jax.train.leaves import leaf_name, matching
from cprec_jax.train.matrices import Axes, dimension_numbers, per_layer

WHERE = "config.train.optimizer.decayed"
ADAM_RMS = 0.2  # of AdamW's updates, as measured by arXiv 2502.16982: with it one learning rate serves both
MUON, ADAM = "muon", "adam"


def make_optimizer(spec: OptimizerSpec, schedule: optax.Schedule, axes: Axes) -> optax.GradientTransformation:
    """The optimizer of the trained leaves, whose logical axes are `axes`. A pattern that matches none of them is a
    `UserError`."""
    names = None if spec.decayed is None else matching(spec.decayed, axes, WHERE)
    mask = functools.partial(decayed, names=names)
    if spec.kind == "adamw":
        return adamw(spec, schedule, mask)
    scaled = {"adafactor": _adafactor, "muon": _muon}[spec.kind](spec, axes)
    return optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        scaled,
        optax.add_decayed_weights(spec.weight_decay, mask),
        optax.scale_by_learning_rate(schedule),
    )


def decayed(params: Any, names: Collection[str] | None = None) -> Any:
    """True for the leaves `names`; by default for weight matrices: norm scales and biases are not decayed.

    By name: stacked over layers, they are matrices too.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: is_decayed(leaf_name(path), names), params)


def is_decayed(name: str, names: Collection[str] | None = None) -> bool:
    return name in names if names is not None else not name.endswith(("norm", "bias"))


def adamw(
    spec: OptimizerSpec, schedule: optax.Schedule, mask: Callable[[Any], Any] = decayed
) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(schedule, b1=spec.b1, b2=spec.b2, eps=spec.eps, weight_decay=spec.weight_decay, mask=mask),
    )


def _adafactor(spec: OptimizerSpec, axes: Axes) -> optax.GradientTransformation:
    """Second moments factored into rows and columns of each matrix, without momentum (arXiv 1804.04235).

    Not `optax.adafactor`: that one's decay is not multiplied by the learning rate, and its learning rate is relative to
    the parameters.
    """
    scale = optax.scale_by_factored_rms(decay_rate=spec.decay_rate, min_dim_size_to_factor=spec.factored_from)
    return per_layer(optax.chain(scale, optax.clip_by_block_rms(1.0)), axes)


def _muon(spec: OptimizerSpec, axes: Axes) -> optax.GradientTransformation:
    """Orthogonalised momentum for weight matrices, Adam for all else, by the one learning rate (arXiv 2502.16982)."""
    numbers = {name: dimension_numbers(leaf_axes) for name, leaf_axes in axes.items()}

    def of_leaves(updates: Any) -> Any:  # where another part's leaves are, optax has nodes without leaves
        return jax.tree_util.tree_map_with_path(lambda path, _: numbers[leaf_name(path)], updates)

    def like_adam(path: Any, update: jax.Array) -> jax.Array:
        chosen = numbers[leaf_name(path)]
        assert chosen is not None
        # Its fields may be one number by their type; ours are made as tuples.
        sides = [functools.reduce(lambda size, axis: size * update.shape[axis], side, 1) for side in chosen]  # type: ignore[arg-type]
        return update * (ADAM_RMS * jnp.sqrt(float(max(sides))))

    matrices = optax.chain(
        scale_by_muon(beta=spec.momentum, eps=spec.eps, weight_dimension_numbers=of_leaves),
        optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(like_adam, updates)),
    )
    others = optax.scale_by_adam(b1=spec.b1, b2=spec.b2, eps=spec.eps)
    labels = lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: updater(spec, axes[leaf_name(path)]), tree)  # noqa: E731
    return optax.partition({MUON: matrices, ADAM: others}, labels)


def updater(spec: OptimizerSpec, axes: tuple[str, ...]) -> str:
    """Who updates a leaf with these logical axes: the kind, but under `muon` Adam for all that is no weight matrix."""
    if spec.kind != "muon":
        return spec.kind
    return ADAM if dimension_numbers(axes) is None else MUON
