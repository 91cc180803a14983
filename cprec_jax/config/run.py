"""One of `config.runs`: its stage, where it starts, what it stands for, and its sections."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cprec_jax.config.build import at_least_one
from cprec_jax.config.lora import LoraSpec
from cprec_jax.config.model import ModelSpec
from cprec_jax.config.objective import CptSpec, ObjectiveSpec, SftSpec
from cprec_jax.config.rows import RowsKind
from cprec_jax.config.setting import setting
from cprec_jax.config.train import TrainSpec

BASE = "base"  # the start that `config.model` describes
CPT = "cpt"  # the run that a config without names for its runs means
SFT = "sft"
# What a run may change of the model that it starts from: how it computes, not what it is.
COMPUTES = ("dtype", "remat", "unroll", "dropout", "attention", "attention_segments")


@dataclass(frozen=True, kw_only=True)
class StartSpec:
    """`{"hf": PATH}`: another base model. `{"run": NAME, "fraction": F}` or `{"run": NAME, "step": N}`: go on with a
    run from there."""

    hf: str | None = setting(
        None, "a Hugging Face directory or hub id, whose parameters are taken", affects=(), content=True
    )
    run: str | None = setting(
        None, "the run to go on with: its moments, its count of steps, its rows where it stopped", affects=()
    )
    fraction: float | None = setting(None, "from this fraction of its steps, inside its stable phase", affects=())
    step: int | None = setting(None, "from this step, inside its stable phase", affects=())

    def __post_init__(self) -> None:
        given = [name for name in ("fraction", "step") if getattr(self, name) is not None]
        if (self.hf is None) == (self.run is None):
            raise ValueError("give 'hf', or 'run' with a fraction or a step")
        if len(given) != (self.run is not None):
            raise ValueError(
                "'run' needs either a fraction or a step; a run's name alone, as a text, takes its parameters only"
            )
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction {self.fraction} must lie in 0..1")
        if self.step is not None and self.step < 0:
            raise ValueError(f"step {self.step} must not be negative")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run. Without `runs` a config means `{"cpt": {}}`."""

    stage: Literal["cpt", "sft"] = setting(
        "cpt",
        "what it trains on: cpt (continual pre-training) or sft (fine-tuning on the training sequences of `sets`)",
        affects=(),
    )
    start: str | StartSpec = setting(
        BASE,
        "'base' (config.model), the name of a run (its parameters), {'hf': ...}, or {'run': ..., 'fraction': ...}",
        affects=(),
    )
    seeds: int | None = setting(
        None, "how many, by seed (None: config.train.seeds, else config.evaluate.seeds)", affects=()
    )
    sets: tuple[str, ...] | None = setting(
        None, "sft: which sets, each a run of its own (None: all downstream sets)", affects=()
    )
    together: bool = setting(False, "sft: one run on all its sets", affects=())
    select: Literal["last", "nll", "ndcg@10"] = setting(
        "last",
        "the checkpoint it stands for: the last, or by validation users the lowest NLL or highest NDCG@10 (sft: "
        "ndcg@10)",
        affects=(),
    )
    select_from: tuple[float, ...] = setting(
        (0.2, 0.4, 0.6, 0.8, 1.0), "the fractions of the run whose checkpoints `select` chooses from", affects=()
    )
    patience: int | None = setting(
        None,
        "sft: stop after so many checkpoints of `select_from` that are no better (None: off; a run that stops early "
        "never anneals)",
        affects=(),
    )
    grid: Mapping[str, Any] = setting(
        factory=dict,
        help="settings with several values each, such as {'train': {'schedule': {'peak': (1e-4, 3e-4)}}}",
        affects=(),
    )
    lora: LoraSpec | None = setting(
        None,
        "train an adapter of the linear layers instead of the model: a section with rank, alpha, ...",
        affects=("runs",),
    )
    cpt: CptSpec = setting(factory=CptSpec, help="what only pre-training has", affects=("runs",))
    sft: SftSpec = setting(factory=SftSpec, help="what only fine-tuning has", affects=("runs",))
    train: TrainSpec = setting(help="what differs from config.train", affects=("runs",))
    model: ModelSpec = setting(factory=ModelSpec, help="what differs from config.model", affects=("runs",))

    @classmethod
    def complete(cls, section: Mapping[str, Any]) -> dict[str, Any]:
        """Fine-tuning stands for the checkpoint that ranks best."""
        return {"select": "ndcg@10", **section} if section.get("stage") == SFT else dict(section)

    def __post_init__(self) -> None:
        at_least_one(self, "seeds", "patience")
        if self.patience is not None and self.select == "last":
            raise ValueError("patience needs validation users to stop by; set select to 'nll' or 'ndcg@10'")
        if self.sets is not None and (not self.sets or len(set(self.sets)) < len(self.sets)):
            raise ValueError(f"sets {self.sets}: name at least one, and each once")
        if not self.select_from or not all(0 < fraction <= 1 for fraction in self.select_from):
            raise ValueError(f"select_from {self.select_from}: fractions of the run, above 0 and at most 1")
        if self.grid and self.select == "last":
            raise ValueError("grid needs validation users to choose by; set select to 'nll' or 'ndcg@10'")
        if self.grid and self.goes_on:
            raise ValueError(
                "grid: a run that goes on with another one has the settings of that one; start from its parameters"
            )

    @property
    def loss(self) -> ObjectiveSpec:
        """The section of its stage, which says its loss."""
        return self.sft if self.stage == SFT else self.cpt

    @property
    def parent(self) -> str | None:
        """The run that it starts from."""
        if isinstance(self.start, StartSpec):
            return self.start.run
        return None if self.start == BASE else self.start

    @property
    def goes_on(self) -> bool:
        """Whether it goes on with moments, step count and rows of its parent."""
        return isinstance(self.start, StartSpec) and self.start.run is not None


def rows_kind(run: RunSpec) -> RowsKind:
    """The rows that a run reads."""
    if run.stage == CPT:
        return RowsKind(stage="cpt")
    return RowsKind(stage="sft", targets=run.sft.targets, users=run.sft.users)
