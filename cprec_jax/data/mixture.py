"""Weights over row sources: how often each source's rows occur in the stream of batches."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cprec_jax.errors import UserError
from cprec_jax.spec import nearest


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """`temperature` 1 follows the sources' sizes, 0 makes the domains equal; `mixed_share` and `text_share` fix the share of all-domain
    rows and of general text (None: by size); `weights` multiplies single sources (0 leaves one out).

    `data_tokens` limits the DIFFERENT tokens of the whole run (data scale): every source gives its share of them, the same rows for a
    larger limit and more, and repeats them when they are used up. None: all.
    """

    temperature: float = 1.0
    mixed_share: float | None = None
    text_share: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    data_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("mixed_share", "text_share"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} {share} must lie in 0..1")
        if (self.mixed_share or 0.0) + (self.text_share or 0.0) > 1:
            raise ValueError(f"mixed_share {self.mixed_share} and text_share {self.text_share} are more than 1 together")
        if not self.temperature >= 0:
            raise ValueError(f"temperature {self.temperature} must not be negative")
        if self.data_tokens is not None and self.data_tokens < 1:
            raise ValueError(f"data_tokens {self.data_tokens} must be at least 1")
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("weights must not be negative")


def proportions(spec: MixtureSpec, sizes: Mapping[str, int]) -> dict[str, float]:
    """The share of each source, summing to 1, from the number of rows of each. Sources without rows or weight are left out.

    A fixed share of a source that has no rows is left to the others; `check_shares` refuses one for training.
    """
    for name in spec.weights:
        if name not in sizes:
            raise UserError(f"config.train.mixture.weights.{name}: no such row source{nearest(name, sizes)}")
    raw = {name: size**spec.temperature * spec.weights.get(name, 1.0) for name, size in sizes.items() if size}
    given = {"mixed": spec.mixed_share, "text": spec.text_share}
    fixed = {name: share for name, share in given.items() if share is not None and raw.get(name)}
    if fixed:
        rest = sum(value for name, value in raw.items() if name not in fixed)
        left = 1 - sum(fixed.values())
        raw = {name: fixed[name] if name in fixed else value / rest * left if rest else 0.0 for name, value in raw.items()}
    total = sum(raw.values())
    if total <= 0:
        raise UserError("config.train.mixture: every row source has weight 0 or no rows; give at least one a weight")
    return {name: value / total for name, value in raw.items() if value > 0}


def check_shares(spec: MixtureSpec, sizes: Mapping[str, int], where: str) -> None:
    """A share that is asked of a source without rows is a `UserError`; `where` is the section, such as ``config.train.mixture``."""
    mends = {
        "mixed": "the rows hold no all-domain sequences (of users in two or more pre-training domains with times)",
        "text": "the rows hold no general text; set config.pack.text and pack again",
    }
    for name, mend in mends.items():
        share = getattr(spec, f"{name}_share")
        if share and not sizes.get(name):
            raise UserError(f"{where}.{name}_share: {share} is asked, but {mend}, or leave the share out")


def blend(first: Mapping[str, float], second: Mapping[str, float], fraction: float) -> dict[str, float]:
    """The shares of a whole run whose last `fraction` has the shares `second`."""
    if first == second:
        return dict(first)
    names = [*first, *(name for name in second if name not in first)]
    return {name: (1 - fraction) * first.get(name, 0.0) + fraction * second.get(name, 0.0) for name in names}


def row_limits(spec: MixtureSpec, shares: Mapping[str, float], sizes: Mapping[str, int], row_length: int) -> dict[str, int]:
    """How many rows of each source may be used under `data_tokens`; sources that the limit does not reach are left out."""
    if spec.data_tokens is None:
        return {}
    wanted = {name: max(1, round(share * spec.data_tokens / row_length)) for name, share in shares.items()}
    return {name: rows for name, rows in wanted.items() if rows < sizes[name]}
