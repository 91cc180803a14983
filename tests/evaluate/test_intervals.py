"""Borders of slices and bins."""

import numpy as np

from cprec_jax.evaluate.intervals import Interval, intervals


def test_every_number_is_in_one_interval() -> None:
    parts = intervals(0, 1, 5, 20)
    masks = np.stack([interval.mask(np.arange(100)) for interval in parts])
    assert (masks.sum(axis=0) == 1).all() and masks.sum(axis=1).tolist() == [1, 4, 15, 80]
    assert [interval.label() for interval in parts] == ["0", "1-4", "5-19", "20+"]
    assert Interval(low=5, high=19).label("–") == "5–19"


def test_what_lies_before_the_first_interval_is_in_none() -> None:
    assert not any(interval.mask(np.array([0])).any() for interval in intervals(1, 6))
