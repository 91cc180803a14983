"""AdamW with decoupled weight decay on matrices only, and clipping by the global norm."""

from dataclasses import dataclass
from typing import Any

import jax
import optax


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """`config.train.optimizer`."""

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise ValueError(f"b1 {self.b1} and b2 {self.b2} must lie in [0, 1)")
        if self.clip_norm <= 0:
            raise ValueError(f"clip_norm {self.clip_norm} must be above 0")


def decayed(params: Any) -> Any:
    """True for weight matrices; norm scales and biases are not decayed. By name: stacked over layers, they are matrices too."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not path[-1].key.endswith(("norm", "bias")), params)


def adamw(spec: OptimizerSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(schedule, b1=spec.b1, b2=spec.b2, eps=spec.eps, weight_decay=spec.weight_decay, mask=decayed),
    )
