"""Weights over row sources: how often each source's rows occur in the stream of batches."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cprec_jax.errors import UserError
from cprec_jax.spec import nearest


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """`temperature` 1 follows the sources' sizes, 0 makes the domains equal; `mixed_share` fixes the share of all-domain rows
    (None: by size); `weights` multiplies single sources (0 leaves one out)."""

    temperature: float = 1.0
    mixed_share: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mixed_share is not None and not 0 <= self.mixed_share <= 1:
            raise ValueError(f"mixed_share {self.mixed_share} must lie in 0..1")
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("weights must not be negative")


def proportions(spec: MixtureSpec, sizes: Mapping[str, int], mixed: str = "mixed") -> dict[str, float]:
    """The share of each source, summing to 1, from the number of rows of each. Sources without rows or weight are left out."""
    for name in spec.weights:
        if name not in sizes:
            raise UserError(f"config.train.mixture.weights.{name}: no such row source{nearest(name, sizes)}")
    raw = {name: size**spec.temperature * spec.weights.get(name, 1.0) for name, size in sizes.items() if size}
    if spec.mixed_share is not None and raw.get(mixed):
        rest = sum(value for name, value in raw.items() if name != mixed)
        for name in raw:
            raw[name] = spec.mixed_share if name == mixed else raw[name] / rest * (1 - spec.mixed_share) if rest else 0.0
    total = sum(raw.values())
    if total <= 0:
        raise UserError("config.train.mixture: every row source has weight 0 or no rows; give at least one a weight")
    return {name: value / total for name, value in raw.items() if value > 0}
