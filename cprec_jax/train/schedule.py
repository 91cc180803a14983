"""The Warmup-Stable-Annealing (WSA) learning rate, composed with `optax.join_schedules`."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import optax

from cprec_jax.config.train import ScheduleSpec, Shape


def decay(shape: Shape) -> Callable[[jnp.ndarray], jnp.ndarray]:
    """The annealing curve f on [0, 1], with f(0) = 1 and f(1) = 0."""
    floor = 1e-3
    return {
        "linear": lambda x: 1 - x,
        "cosine": lambda x: 0.5 * (1 + jnp.cos(jnp.pi * x)),
        "exponential": lambda x: (jnp.exp(math.log(floor) * x) - floor) / (1 - floor),
        "sqrt": lambda x: 1 - jnp.sqrt(x),
    }[shape]


def wsa(spec: ScheduleSpec, total_steps: int) -> optax.Schedule:
    """The learning rate of step s = 0, 1, ..., T - 1, for T = `total_steps`, W warm-up steps, and S the first annealing
    step.

    s < W:       peak * (s + 1) / W, so that the first step learns and step W - 1 has the peak
    W <= s < S:  peak
    S <= s:      end + (peak - end) * f((s - S) / (T - S)), where `spec.end` is end / peak
    """
    f = decay(spec.shape)
    warmup = 0 if spec.start == "anneal" else round(spec.warmup * total_steps)
    stable_until = 0 if spec.start == "anneal" else max(total_steps - round(spec.anneal * total_steps), warmup)
    end = spec.end * spec.peak
    length = max(total_steps - stable_until, 1)

    def anneal(step: jnp.ndarray) -> jnp.ndarray:
        return end + (spec.peak - end) * f(jnp.clip(step / length, 0.0, 1.0))

    warm = optax.linear_schedule(spec.peak / max(warmup, 1), spec.peak, warmup - 1)
    # join_schedules skips an empty phase: a boundary of 0 lies before the first step.
    return optax.join_schedules([warm, optax.constant_schedule(spec.peak), anneal], [warmup, stable_until])


def anneal_fraction(spec: ScheduleSpec) -> float:
    """The fraction of a run's steps that anneals."""
    return fractions(spec)[-1]


def fractions(spec: ScheduleSpec) -> tuple[float, float, float]:
    """The fractions of a run's steps that warm up, are stable, and anneal."""
    if spec.start == "anneal":
        return 0.0, 0.0, 1.0
    return spec.warmup, 1 - spec.warmup - spec.anneal, spec.anneal


def phases(spec: ScheduleSpec, total_steps: int) -> tuple[int, int]:
    """The first stable and the first annealing step, counted from 0."""
    if spec.start == "anneal":
        return 0, 0
    warmup = round(spec.warmup * total_steps)
    return warmup, max(total_steps - round(spec.anneal * total_steps), warmup)
