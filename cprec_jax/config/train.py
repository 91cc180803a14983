"""`config.train`: how long, on what, by which schedule and optimizer."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cprec_jax.config.build import at_least_one
from cprec_jax.config.setting import setting

Shape = Literal["linear", "cosine", "exponential", "sqrt"]
OPTIONAL_SOURCES = ("related", "shuffled", "titles")  # row sources that are made only where a mixture asks for them


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
            raise ValueError(
                f"warmup {self.warmup} and anneal {self.anneal} are fractions of the run and may sum to at most 1"
            )
        if not 0 <= self.end <= 1:
            raise ValueError(f"end {self.end} is a fraction of the peak, 0..1")


OF_KINDS = {  # settings that only some kinds of optimizers have
    "b1": ("adamw", "muon"),
    "b2": ("adamw", "muon"),
    "eps": ("adamw", "muon"),
    "momentum": ("muon",),
    "decay_rate": ("adafactor",),
    "factored_from": ("adafactor",),
}


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """How gradients become updates. A setting that the `kind` does not have is refused."""

    kind: Literal["adamw", "adafactor", "muon"] = setting(
        "adamw",
        "adamw, adafactor, or muon, which gives Adam to what is no weight matrix (embedding, head, norms, biases)",
    )
    b1: float = setting(0.9, "decay of Adam's first moment")
    b2: float = setting(0.95, "decay of Adam's second moment")
    eps: float = setting(1e-8, "added to the root of Adam's second moment, and to Muon's norm")
    momentum: float = setting(0.95, "decay of Muon's momentum")
    decay_rate: float = setting(0.8, "Adafactor's second moment decays by 1 - step ** -decay_rate")
    factored_from: int = setting(128, "Adafactor factors matrices whose sides both have at least this size")
    weight_decay: float = setting(0.1, "of weight matrices, times the learning rate; norms and biases have none")
    decayed: tuple[str, ...] | None = setting(
        None,
        "the parameters that decay, as patterns of their names such as 'layers/*/q' (None: all but norms and biases)",
    )
    clip_norm: float = setting(1.0, "largest norm of the whole gradient")

    def __post_init__(self) -> None:
        for name, kinds in OF_KINDS.items():
            if self.kind not in kinds and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{name} belongs to {' and '.join(kinds)}; {self.kind} has no such setting")
        for name in ("b1", "b2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 1)")
        if not 0 < self.decay_rate <= 1:
            raise ValueError(f"decay_rate {self.decay_rate} must lie in (0, 1]")
        at_least_one(self, "factored_from")
        if self.clip_norm <= 0:
            raise ValueError(f"clip_norm {self.clip_norm} must be above 0")

    @property
    def of_kind(self) -> dict[str, Any]:
        """The settings that the kind has, without patterns that are not given."""
        return {
            name: value
            for name, value in vars(self).items()
            if self.kind in OF_KINDS.get(name, (self.kind,)) and not (name == "decayed" and value is None)
        }


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """How often the rows of each source occur."""

    temperature: float = setting(1.0, "1 follows the sources' sizes, 0 makes the domains equal")
    mixed_share: float | None = setting(None, "share of the all-domain rows (None: by size)")
    text_share: float | None = setting(None, "share of general text (None: by size)")
    weights: Mapping[str, float] = setting(
        factory=dict, help="factors of single sources; 0 leaves one out; asks for an optional source"
    )
    shares: Mapping[str, float] = setting(factory=dict, help="shares of single sources; asks for an optional source")
    data_tokens: int | None = setting(
        None,
        "the most DIFFERENT tokens of the whole run, each source its share; a larger limit holds the same rows and "
        "more (None: all)",
    )

    def __post_init__(self) -> None:
        for name in ("mixed", "text"):
            if getattr(self, f"{name}_share") is not None and name in self.shares:
                raise ValueError(f"{name}_share and shares[{name!r}] both say the share of {name!r}; leave one out")
        for name, share in self.fixed_shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{self.share_key(name)} {share} must lie in 0..1")
        if sum(self.fixed_shares.values()) > 1 + 1e-9:
            named = " and ".join(f"{self.share_key(name)} {share}" for name, share in self.fixed_shares.items())
            raise ValueError(f"{named} are more than 1 together")
        if not self.temperature >= 0:
            raise ValueError(f"temperature {self.temperature} must not be negative")
        if self.data_tokens is not None and self.data_tokens < 1:
            raise ValueError(f"data_tokens {self.data_tokens} must be at least 1")
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("weights must not be negative")

    @property
    def fixed_shares(self) -> dict[str, float]:
        """The share of each source that has one of its own, whichever key gives it."""
        given = {"mixed": self.mixed_share, "text": self.text_share}
        return {name: share for name, share in given.items() if share is not None} | dict(self.shares)

    def share_key(self, source: str) -> str:
        """The key that gives the share of a source."""
        return f"shares.{source}" if source in self.shares else f"{source}_share"

    def weight(self, source: str) -> float:
        """The factor of a source; that of an optional source is 0 unless the mixture asks for it."""
        return self.weights.get(source, 1.0 if source not in OPTIONAL_SOURCES or self.fixed_shares.get(source) else 0.0)

    @property
    def asked_sources(self) -> frozenset[str]:
        """The optional sources that get rows: those with a weight or a share above 0."""
        return frozenset(
            name for name in OPTIONAL_SOURCES if self.weight(name) > 0 and self.fixed_shares.get(name) != 0
        )


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Exactly one of `steps`, `epochs` and `tokens` says how long."""

    seed: int = setting(0, "of weights, rows and dropout")
    seeds: int | None = setting(
        None,
        "how many runs, the first with `seed`, the next with `seed` + 1, ... (None: config.evaluate.seeds)",
        affects=("results.runs",),
    )
    global_batch: int = setting(16, "rows per step")
    micro_batches: int = setting(1, "parts of a step that go through the model one after the other, to save memory")
    steps: int | None = setting(None, "length of the run in steps")
    epochs: float | None = setting(None, "length of the run in passes over all rows, by size")
    tokens: int | None = setting(None, "length of the run in tokens, padding included")
    loss_chunk: int = setting(128, "positions whose logits are held at a time")
    log_every: int = setting(10, "steps between two lines of metrics", affects=())
    checkpoint_every: int = setting(200, "steps between two checkpoints", affects=())
    validate_every: int | None = setting(
        None,
        "steps between two looks at validation users, whose NLL and NDCG@10 go into the metrics (None: none)",
        affects=(),
    )
    validate_users: int = setting(100, "validation users per set who are ranked then, a fixed choice", affects=())
    near: str | None = setting(
        None,
        "a directory on a disk of each host, for checkpoints between those; the newest that is whole everywhere counts",
        affects=(),
    )
    near_every: int = setting(20, "steps between two checkpoints there", affects=())
    copy_to: str | None = setting(
        None,
        "gs://BUCKET/DIRECTORY, or a path, which keeps copies of the checkpoints; a run whose directory is gone goes "
        "on from the newest",
        affects=(),
    )
    keep: int = setting(2, "newest checkpoints that stay, beside milestones", affects=())
    loggers: tuple[Literal["jsonl", "tensorboard", "wandb"], ...] = setting(
        ("jsonl", "tensorboard"),
        "where metrics go: jsonl (metrics.jsonl, which the report reads), tensorboard, wandb",
        affects=(),
    )
    profile: str | None = setting(
        None,
        "'100:105' keeps a profiler trace from the end of step 100 to that of step 105 in the run's directory",
        affects=(),
    )
    milestones: tuple[float, ...] = setting((), "fractions of the run whose checkpoints stay", affects=())
    loader_workers: int = setting(0, "processes that read rows ahead (0: a thread)", affects=())
    schedule: ScheduleSpec = setting(factory=ScheduleSpec, help="learning rate")
    optimizer: OptimizerSpec = setting(factory=OptimizerSpec, help="how gradients become updates")
    frozen: tuple[str, ...] = setting(
        (), "the parameters that stay as they are, as patterns of their names such as 'embed*'"
    )
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
            raise ValueError(
                f"set exactly one of steps, epochs, tokens (now: {', '.join(given) or 'none'}); set the others to None"
            )
        if self.global_batch % self.micro_batches:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of micro_batches {self.micro_batches}"
            )
        if any(not 0 <= m <= 1 for m in self.milestones):
            raise ValueError(f"milestones {self.milestones} are fractions of the run, 0..1")
        if self.profile is not None and not re.fullmatch(r"\d+:\d+", self.profile):
            raise ValueError(f"profile {self.profile!r} must be two steps such as '100:105'")
        if (window := self.profile_window) is not None and window[0] >= window[1]:
            raise ValueError(f"profile {self.profile!r} must end after it begins")
        at_least_one(
            self,
            "global_batch",
            "micro_batches",
            "loss_chunk",
            "log_every",
            "checkpoint_every",
            "validate_every",
            "validate_users",
            "near_every",
            "keep",
            "seeds",
        )

    @property
    def annealed_mixture(self) -> MixtureSpec:
        """The mixture of the annealing phase."""
        return self.mixture if self.anneal_mixture is None else self.anneal_mixture

    @property
    def profile_window(self) -> tuple[int, int] | None:
        """After how many steps the profiler starts and stops."""
        if self.profile is None:
            return None
        start, stop = self.profile.split(":")
        return int(start), int(stop)

    @property
    def row_sources(self) -> tuple[str, ...]:
        """The optional row sources that one of its mixtures asks for, in alphabetical order."""
        return tuple(sorted(self.mixture.asked_sources | self.annealed_mixture.asked_sources))

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
