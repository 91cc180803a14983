"""`lora` of a run: train a low-rank adapter of the linear layers instead of the model (arXiv 2106.09685)."""

import math
from dataclasses import dataclass

from cprec_jax.config.build import at_least_one
from cprec_jax.config.setting import setting

ALL_LINEAR = ("layers/*",)


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """A linear layer with an adapter computes W x + scale * B A x. A and B are trained, in float32; nothing else is."""

    rank: int = setting(32, "columns of A and rows of B")
    alpha: float = setting(64.0, "the scale is alpha / rank")
    rslora: bool = setting(False, "the scale is alpha / sqrt(rank) instead (arXiv 2312.03732)")
    dropout: float = setting(0.0, "rate in [0, 1) on the input of A, in training alone")
    targets: tuple[str, ...] = setting(
        ALL_LINEAR,
        "the linear layers with an adapter, as patterns of their names such as 'layers/mlp/*' (default: all)",
    )

    def __post_init__(self) -> None:
        at_least_one(self, "rank")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha {self.alpha} must be above 0 and finite")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must lie in [0, 1)")
        if not self.targets:
            raise ValueError("targets: name at least one pattern, such as 'layers/*'")

    @property
    def scale(self) -> float:
        """What the product of B and A is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def shown(lora: LoraSpec) -> str:
    """The settings that make an adapter what it is, for messages."""
    return ", ".join(f"{key}={getattr(lora, key)!r}" for key in ("rank", "alpha", "rslora", "targets"))
