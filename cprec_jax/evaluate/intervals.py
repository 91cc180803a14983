"""Whole numbers in intervals: the borders of slices and of the bins of plots, each written once."""

from dataclasses import dataclass

import numpy as np

HISTORY = (1, 6, 11, 21)  # items in a history, from which on an interval begins
WARM = 5  # training interactions, from which on a target is warm; with fewer, but some, it is cold


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Whole numbers from `low` to `high`, both included; None: no upper limit."""

    low: int
    high: int | None

    def mask(self, values: np.ndarray) -> np.ndarray:
        """bool, of the shape of `values`: which of them are inside."""
        return (values >= self.low) & (values <= (np.inf if self.high is None else self.high))

    def label(self, dash: str = "-") -> str:
        """`1-5`; `7` where it holds one number; `21+` without an upper limit."""
        if self.high is None:
            return f"{self.low}+"
        return str(self.low) if self.low == self.high else f"{self.low}{dash}{self.high}"


def intervals(*lows: int) -> tuple[Interval, ...]:
    """One interval from each of `lows` (ascending) to the next; the last one has no upper limit."""
    highs = (*(low - 1 for low in lows[1:]), None)
    return tuple(Interval(low=low, high=high) for low, high in zip(lows, highs, strict=True))
