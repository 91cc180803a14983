"""Optimizers by kind, as chains of optax: clipping by the global norm, the kind's scaling, decoupled weight decay,
learning rate."""

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
ADAM_RMS = 0.2  # RMS of AdamW's updates (arXiv 2502.16982): Muon's are scaled to it, so both share a learning rate
MUON, ADAM = "muon", "adam"


def make_optimizer(spec: OptimizerSpec, schedule: optax.Schedule, axes: Axes) -> optax.GradientTransformation:
    """The optimizer of the trained leaves, whose logical axes are `axes`.

    Raises `UserError` for a pattern of `spec.decayed` that matches none of them.
    """
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
    """The mask of weight decay: True for the leaves `names`; None: for all but norm scales and biases.

    It goes by name, because norm scales stacked over layers are matrices, too.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: is_decayed(leaf_name(path), names), params)


def is_decayed(name: str, names: Collection[str] | None = None) -> bool:
    """Whether the leaf is decayed (see `decayed`)."""
    return name in names if names is not None else not name.endswith(("norm", "bias"))


def adamw(
    spec: OptimizerSpec, schedule: optax.Schedule, mask: Callable[[Any], Any] = decayed
) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) after clipping by the global norm. mask: of weight decay."""
    return optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(schedule, b1=spec.b1, b2=spec.b2, eps=spec.eps, weight_decay=spec.weight_decay, mask=mask),
    )


def _adafactor(spec: OptimizerSpec, axes: Axes) -> optax.GradientTransformation:
    """Second moments factored into rows and columns of each matrix, without momentum (arXiv 1804.04235).

    Not `optax.adafactor`, whose weight decay is not multiplied by the learning rate, and whose learning rate is
    relative to the size of the parameters.
    """
    scale = optax.scale_by_factored_rms(decay_rate=spec.decay_rate, min_dim_size_to_factor=spec.factored_from)
    return per_layer(optax.chain(scale, optax.clip_by_block_rms(1.0)), axes)


def _muon(spec: OptimizerSpec, axes: Axes) -> optax.GradientTransformation:
    """Orthogonalised momentum for weight matrices, Adam for all other leaves, with one learning rate (arXiv
    2502.16982)."""
    numbers = {name: dimension_numbers(leaf_axes) for name, leaf_axes in axes.items()}

    def of_leaves(updates: Any) -> Any:  # optax masks the leaves of the other partition by nodes without leaves
        return jax.tree_util.tree_map_with_path(lambda path, _: numbers[leaf_name(path)], updates)

    def like_adam(path: Any, update: jax.Array) -> jax.Array:
        chosen = numbers[leaf_name(path)]
        assert chosen is not None
        # By their type the fields may be ints; ours are tuples.
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
    """What updates a leaf with these logical axes: `spec.kind`; under `muon` Adam where it is no weight matrix."""
    if spec.kind != "muon":
        return spec.kind
    return ADAM if dimension_numbers(axes) is None else MUON
