"""AdamW with decoupled weight decay on matrices only, and clipping by the global norm."""

from typing import Any

import jax
import optax

from cprec_jax.config.train import OptimizerSpec


def decayed(params: Any) -> Any:
    """True for weight matrices; norm scales and biases are not decayed. By name: stacked over layers, they are matrices too."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not path[-1].key.endswith(("norm", "bias")), params)


def adamw(spec: OptimizerSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(schedule, b1=spec.b1, b2=spec.b2, eps=spec.eps, weight_decay=spec.weight_decay, mask=decayed),
    )
