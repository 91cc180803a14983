"""Weights over row sources: how often each source's rows occur in the stream of batches."""

from collections.abc import Mapping
from typing import TypeVar

from cprec_jax.config.build import nearest
from cprec_jax.config.train import OPTIONAL_SOURCES, MixtureSpec, TrainSpec
from cprec_jax.errors import UserError

T = TypeVar("T")


def usable(spec: TrainSpec, splits: Mapping[str, T]) -> dict[str, T]:
    """The splits that a run may draw from: an optional source that only other runs ask for counts as absent."""
    return {name: split for name, split in splits.items() if name not in OPTIONAL_SOURCES or name in spec.row_sources}


def proportions(spec: MixtureSpec, sizes: Mapping[str, int]) -> dict[str, float]:
    """The share of each source, summing to 1, from the number of rows of each. Sources without rows or weight are left
    out.

    A fixed share of a source that has no rows is left to the others; `check_shares` refuses one for training.
    """
    for name in spec.weights:
        if name in OPTIONAL_SOURCES and name not in sizes and spec.weight(name) > 0:
            raise UserError(
                f"config.train.mixture.weights.{name}: the rows were made without {name!r}; pack again, or leave the "
                "weight out"
            )
        if name not in sizes and name not in OPTIONAL_SOURCES:
            raise UserError(f"config.train.mixture.weights.{name}: no such row source{nearest(name, sizes)}")
    raw = {name: size**spec.temperature * spec.weight(name) for name, size in sizes.items() if size}
    fixed = {name: share for name, share in spec.fixed_shares.items() if raw.get(name)}
    if fixed:
        rest = sum(value for name, value in raw.items() if name not in fixed)
        left = 1 - sum(fixed.values())
        raw = {
            name: fixed[name] if name in fixed else value / rest * left if rest else 0.0 for name, value in raw.items()
        }
    total = sum(raw.values())
    if total <= 0:
        raise UserError("config.train.mixture: every row source has weight 0 or no rows; give at least one a weight")
    return {name: value / total for name, value in raw.items() if value > 0}


def check_shares(spec: MixtureSpec, sizes: Mapping[str, int], where: str) -> None:
    """A share that is asked of a source without rows is a `UserError`; `where` is the section, such as
    ``config.train.mixture``."""
    mends = {
        "mixed": "the rows hold no all-domain sequences (of users in two or more pre-training domains with times)",
        "text": "the rows hold no general text; set config.pack.text and pack again",
    }
    for name, share in spec.fixed_shares.items():
        if name not in sizes and name not in mends and name not in OPTIONAL_SOURCES:
            raise UserError(f"{where}.shares.{name}: no such row source{nearest(name, sizes)}")
        if share and not sizes.get(name):
            mend = mends.get(name, f"the rows hold none of {name!r}; pack again")
            raise UserError(f"{where}.{spec.share_key(name)}: {share} is asked, but {mend}, or leave the share out")


def blend(first: Mapping[str, float], second: Mapping[str, float], fraction: float) -> dict[str, float]:
    """The shares of a whole run whose last `fraction` has the shares `second`."""
    if first == second:
        return dict(first)
    names = [*first, *(name for name in second if name not in first)]
    return {name: (1 - fraction) * first.get(name, 0.0) + fraction * second.get(name, 0.0) for name in names}


def row_limits(
    spec: MixtureSpec, shares: Mapping[str, float], sizes: Mapping[str, int], row_length: int
) -> dict[str, int]:
    """How many rows of each source may be used under `data_tokens`; sources that the limit does not reach are left
    out."""
    if spec.data_tokens is None:
        return {}
    wanted = {name: max(1, round(share * spec.data_tokens / row_length)) for name, share in shares.items()}
    return {name: rows for name, rows in wanted.items() if rows < sizes[name]}
