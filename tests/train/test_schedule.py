from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.config.train import ScheduleSpec, Shape
from cprec_jax.train.schedule import decay, phases, wsa

SHAPES = get_args(Shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_three_phases(shape: Shape) -> None:
    spec = ScheduleSpec(peak=2.0, warmup=0.1, anneal=0.2, shape=shape, end=0.25)
    lr = np.array([float(wsa(spec, 100)(s)) for s in range(101)])
    np.testing.assert_allclose(lr[:10], 2.0 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(lr[10:81], 2.0, rtol=1e-6)
    assert lr[100] == pytest.approx(0.5)
    assert (np.diff(lr[80:]) < 0).all()
    f = decay(spec.shape)(np.arange(21) / 20)
    np.testing.assert_allclose(lr[80:], 0.5 + 1.5 * np.asarray(f), rtol=1e-5)
    assert phases(spec, 100) == (10, 80)


@pytest.mark.parametrize("shape", SHAPES)
def test_decay_runs_from_one_to_zero(shape: Shape) -> None:
    f = decay(shape)
    assert float(f(np.float32(0.0))) == pytest.approx(1.0)
    assert float(f(np.float32(1.0))) == pytest.approx(0.0, abs=1e-6)


def test_annealing_from_a_stable_checkpoint_starts_at_the_peak() -> None:
    lr = wsa(ScheduleSpec(peak=1.0, start="anneal", shape="linear"), 10)
    np.testing.assert_allclose([float(lr(s)) for s in range(11)], 1 - np.arange(11) / 10, atol=1e-6)


def rates(steps: int, **keys: Any) -> list[float]:
    schedule = wsa(ScheduleSpec(peak=1.0, shape="linear", **keys), steps)
    return [float(schedule(jnp.asarray(step, jnp.int32))) for step in range(steps)]


def test_corners() -> None:
    assert rates(4, warmup=0.0, anneal=0.0) == [1.0] * 4
    assert rates(4, warmup=0.25, anneal=0.0) == [1.0] * 4  # W = 1: the first step is all of it
    assert rates(4, warmup=0.5, anneal=0.0) == [0.5, 1.0, 1.0, 1.0]
    assert rates(4, warmup=1.0, anneal=0.0) == [0.25, 0.5, 0.75, 1.0]
    assert rates(4, warmup=0.0, anneal=1.0) == rates(4, start="anneal") == [1.0, 0.75, 0.5, 0.25]
    assert rates(4, warmup=0.5, anneal=0.5) == [0.5, 1.0, 1.0, 0.5]
    assert rates(4, warmup=0.0, anneal=0.25) == [1.0] * 4  # an annealing of one step begins, and ends, at the peak
    assert rates(1) == rates(1, warmup=1.0, anneal=0.0) == rates(1, warmup=0.0, anneal=1.0) == [1.0]
    assert rates(4, warmup=0.25, anneal=0.5, end=0.5) == [1.0, 1.0, 1.0, 0.75]


def test_no_step_is_without_a_learning_rate() -> None:
    for steps in range(1, 60):
        found = rates(steps, warmup=0.1, anneal=0.3)
        warmup, annealing = phases(ScheduleSpec(warmup=0.1, anneal=0.3), steps)
        assert min(found) > 0 and max(found) == 1.0
        assert found[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
        assert found[warmup:annealing] == [1.0] * (annealing - warmup)


def test_mistakes() -> None:
    for wrong in ({"peak": 0.0}, {"warmup": 0.6, "anneal": 0.6}, {"end": 2.0}):
        with pytest.raises(ValueError):
            ScheduleSpec(**wrong)  # type: ignore[arg-type]  # mypy takes every field for a number
