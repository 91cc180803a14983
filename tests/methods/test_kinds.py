"""Every kind of row has a maker, and either seeds or none."""

from typing import get_args

from cprec_jax.config.evaluate import RUN_KINDS, SEQUENTIAL_KINDS, UNSEEDED_KINDS, Kind
from cprec_jax.methods.registry import COUNTERS, Registry


def test_every_kind_has_a_maker() -> None:
    assert {*Registry.MAKERS, *COUNTERS} - {"counting"} == set(get_args(Kind))


def test_every_kind_is_seeded_or_not() -> None:
    kinds = [*UNSEEDED_KINDS, *RUN_KINDS, *SEQUENTIAL_KINDS, "ensemble"]  # an ensemble has the seeds of its members
    assert sorted(kinds) == sorted(get_args(Kind))
