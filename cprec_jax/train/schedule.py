"""The Warmup-Stable-Annealing (WSA) learning rate, composed with `optax.join_schedules`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax

Shape = Literal["linear", "cosine", "exponential", "sqrt"]


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """`config.train.schedule`: fractions of the run for warm-up and annealing; the rest is stable.

    `start="anneal"` begins at the peak and anneals over the whole run: what a run that starts from a stable-phase checkpoint wants.
    `end` is the last learning rate as a fraction of the peak.
    """

    peak: float = 1e-3
    warmup: float = 0.03
    anneal: float = 0.10
    shape: Shape = "sqrt"
    end: float = 0.0
    start: Literal["warmup", "anneal"] = "warmup"

    def __post_init__(self) -> None:
        if self.peak <= 0:
            raise ValueError(f"peak {self.peak} must be above 0")
        if not (self.warmup >= 0 and self.anneal >= 0 and self.warmup + self.anneal <= 1):
            raise ValueError(f"warmup {self.warmup} and anneal {self.anneal} are fractions of the run and may sum to at most 1")
        if not 0 <= self.end <= 1:
            raise ValueError(f"end {self.end} is a fraction of the peak, 0..1")


def decay(shape: Shape) -> Callable[[jnp.ndarray], jnp.ndarray]:
    """f on [0, 1] with f(0) = 1 and f(1) = 0."""
    floor = 1e-3
    return {
        "linear": lambda x: 1 - x,
        "cosine": lambda x: 0.5 * (1 + jnp.cos(jnp.pi * x)),
        "exponential": lambda x: (jnp.exp(math.log(floor) * x) - floor) / (1 - floor),
        "sqrt": lambda x: 1 - jnp.sqrt(x),
    }[shape]


def wsa(spec: ScheduleSpec, total_steps: int) -> optax.Schedule:
    """The learning rate of step s = 0, 1, ..., T - 1, for T = `total_steps`.

    peak * (s + 1) / W for s < W, so that the first step learns and step W - 1 has the peak; peak for W <= s < S;
    end + (peak - end) * f((s - S) / (T - S)) from S on.
    """
    f = decay(spec.shape)
    warmup = 0 if spec.start == "anneal" else round(spec.warmup * total_steps)
    stable_until = 0 if spec.start == "anneal" else max(total_steps - round(spec.anneal * total_steps), warmup)
    end = spec.end * spec.peak
    length = max(total_steps - stable_until, 1)

    def anneal(step: jnp.ndarray) -> jnp.ndarray:
        return end + (spec.peak - end) * f(jnp.clip(step / length, 0.0, 1.0))

    warm = optax.linear_schedule(spec.peak / max(warmup, 1), spec.peak, warmup - 1)
    # A boundary of 0 would still be "before the first step" for join_schedules, which is what skips an empty phase.
    return optax.join_schedules([warm, optax.constant_schedule(spec.peak), anneal], [warmup, stable_until])


def anneal_fraction(spec: ScheduleSpec) -> float:
    """The part of a run that anneals."""
    return fractions(spec)[-1]


def fractions(spec: ScheduleSpec) -> tuple[float, float, float]:
    """The parts of a run that warm up, are stable, and anneal."""
    if spec.start == "anneal":
        return 0.0, 0.0, 1.0
    return spec.warmup, 1 - spec.warmup - spec.anneal, spec.anneal


def phases(spec: ScheduleSpec, total_steps: int) -> tuple[int, int]:
    """The first stable and the first annealing step."""
    if spec.start == "anneal":
        return 0, 0
    warmup = round(spec.warmup * total_steps)
    return warmup, max(total_steps - round(spec.anneal * total_steps), warmup)
