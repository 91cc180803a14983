"""`config.train`: how long, on what, by which schedule and optimizer."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cprec_jax.config.build import at_least_one
from cprec_jax.config.setting import setting

Shape = Literal["linear", "cosine", "exponential", "sqrt"]


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """The learning rate. `warmup` and `anneal` are fractions of the run; the rest is stable."""

    peak: float = setting(1e-3, "highest learning rate")
    warmup: float = setting(0.03, "fraction of the run that warms up")
    anneal: float = setting(0.10, "fraction of the run that anneals")
    shape: Shape = setting("sqrt", "of the annealing: linear, cosine, exponential or sqrt")
    end: float = setting(0.0, "the last learning rate, as a fraction of the peak")
    start: Literal["warmup", "anneal"] = setting("warmup", "'anneal' begins at the peak and anneals over the whole run")

    def __post_init__(self) -> None:
        if self.peak <= 0:
            raise ValueError(f"peak {self.peak} must be above 0")
        if not (self.warmup >= 0 and self.anneal >= 0 and self.warmup + self.anneal <= 1):
            raise ValueError(f"warmup {self.warmup} and anneal {self.anneal} are fractions of the run and may sum to at most 1")
        if not 0 <= self.end <= 1:
            raise ValueError(f"end {self.end} is a fraction of the peak, 0..1")


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """AdamW."""

    b1: float = setting(0.9, "decay of the first moment")
    b2: float = setting(0.95, "decay of the second moment")
    eps: float = setting(1e-8, "added to the root of the second moment")
    weight_decay: float = setting(0.1, "of weight matrices; norms and biases have none")
    clip_norm: float = setting(1.0, "largest norm of the whole gradient")

    def __post_init__(self) -> None:
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise ValueError(f"b1 {self.b1} and b2 {self.b2} must lie in [0, 1)")
        if self.clip_norm <= 0:
            raise ValueError(f"clip_norm {self.clip_norm} must be above 0")


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """How often the rows of each source occur."""

    temperature: float = setting(1.0, "1 follows the sources' sizes, 0 makes the domains equal")
    mixed_share: float | None = setting(None, "share of the all-domain rows (None: by size)")
    text_share: float | None = setting(None, "share of general text (None: by size)")
    weights: Mapping[str, float] = setting(factory=dict, help="factors of single sources; 0 leaves one out")
    data_tokens: int | None = setting(
        None, "the most DIFFERENT tokens of the whole run, each source its share; a larger limit holds the same rows and more (None: all)"
    )

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


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Exactly one of `steps`, `epochs` and `tokens` says how long."""

    seed: int = setting(0, "of weights, rows and dropout")
    seeds: int | None = setting(
        None, "how many runs, the first with `seed`, the next with `seed` + 1, ... (None: config.evaluate.seeds)", affects=("results.runs",)
    )
    global_batch: int = setting(16, "rows per step")
    micro_batches: int = setting(1, "parts of a step that go through the model one after the other, to save memory")
    steps: int | None = setting(None, "length of the run in steps")
    epochs: float | None = setting(None, "length of the run in passes over all rows, by size")
    tokens: int | None = setting(None, "length of the run in tokens, padding included")
    loss_chunk: int = setting(128, "positions whose logits are held at a time")
    log_every: int = setting(10, "steps between two lines of metrics", affects=())
    checkpoint_every: int = setting(200, "steps between two checkpoints", affects=())
    keep: int = setting(2, "newest checkpoints that stay, beside milestones", affects=())
    milestones: tuple[float, ...] = setting((), "fractions of the run whose checkpoints stay")
    loader_workers: int = setting(0, "processes that read rows ahead (0: a thread)", affects=())
    schedule: ScheduleSpec = setting(factory=ScheduleSpec, help="learning rate")
    optimizer: OptimizerSpec = setting(factory=OptimizerSpec, help="AdamW")
    mixture: MixtureSpec = setting(factory=MixtureSpec, help="how often each source's rows occur")
    anneal_mixture: MixtureSpec | None = setting(
        None, "the mixture of the annealing phase; what it leaves out is as in `mixture` (None: all of it)"
    )

    @classmethod
    def complete(cls, section: Mapping[str, Any]) -> dict[str, Any]:
        """The annealing mixture inherits from `mixture`, key by key."""
        section = dict(section)
        if isinstance(section.get("anneal_mixture"), Mapping) and isinstance(section.get("mixture", {}), Mapping):
            section["anneal_mixture"] = {**section.get("mixture", {}), **section["anneal_mixture"]}
        return section

    def __post_init__(self) -> None:
        given = [name for name in ("steps", "epochs", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"set exactly one of steps, epochs, tokens (now: {', '.join(given) or 'none'}); set the others to None")
        if self.global_batch % self.micro_batches:
            raise ValueError(f"global_batch {self.global_batch} is not a multiple of micro_batches {self.micro_batches}")
        if any(not 0 <= m <= 1 for m in self.milestones):
            raise ValueError(f"milestones {self.milestones} are fractions of the run, 0..1")
        at_least_one(self, "global_batch", "micro_batches", "loss_chunk", "log_every", "checkpoint_every", "keep", "seeds")

    @property
    def annealed_mixture(self) -> MixtureSpec:
        """The mixture of the annealing phase."""
        return self.mixture if self.anneal_mixture is None else self.anneal_mixture

    def of_seed(self, number: int) -> "TrainSpec":
        """The section of run `number` of several seeds; the first is the section itself."""
        return dataclasses.replace(self, seed=self.seed + number)

    def total_steps(self, rows: int, row_length: int) -> int:
        """The length of the run in steps."""
        if self.steps is not None:
            return self.steps
        if self.epochs is not None:
            return max(1, round(self.epochs * rows / self.global_batch))
        assert self.tokens is not None
        return max(1, round(self.tokens / (self.global_batch * row_length)))
