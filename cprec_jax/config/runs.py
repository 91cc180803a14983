"""`config.runs`: what is trained, by name. A run inherits `config.train` and `config.model`, key by key."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cprec_jax.config.build import at_least_one, build, nearest
from cprec_jax.config.grid import grid_points
from cprec_jax.config.lora import LoraSpec
from cprec_jax.config.model import ModelSpec
from cprec_jax.config.objective import CptSpec, ObjectiveSpec, SftSpec
from cprec_jax.config.rows import RowsKind
from cprec_jax.config.setting import setting
from cprec_jax.config.train import TrainSpec
from cprec_jax.errors import UserError

BASE = "base"  # the start that `config.model` describes
CPT = "cpt"  # the run that a config without names for its runs means
LENGTHS = ("steps", "epochs", "tokens")
SFT = "sft"
COMES = ("dpo", "merge")  # stages whose names are taken
OF_SFT = ("sets", "together", "patience")  # keys that only fine-tuning has
OF_CPT = ("mixture", "anneal_mixture")  # keys of `train` that only pre-training has
# What a run may change of the model that it starts from: how it computes, not what it is.
COMPUTES = ("dtype", "remat", "unroll", "dropout", "attention", "attention_segments")


@dataclass(frozen=True, kw_only=True)
class StartSpec:
    """`{"hf": PATH}`: another base model. `{"run": NAME, "fraction": F}` or `{"run": NAME, "step": N}`: go on with a run from there."""

    hf: str | None = setting(None, "a Hugging Face directory or hub id, whose parameters are taken", affects=(), content=True)
    run: str | None = setting(None, "the run to go on with: its moments, its count of steps, its rows where it stopped", affects=())
    fraction: float | None = setting(None, "from this fraction of its steps, inside its stable phase", affects=())
    step: int | None = setting(None, "from this step, inside its stable phase", affects=())

    def __post_init__(self) -> None:
        given = [name for name in ("fraction", "step") if getattr(self, name) is not None]
        if (self.hf is None) == (self.run is None):
            raise ValueError("give 'hf', or 'run' with a fraction or a step")
        if len(given) != (self.run is not None):
            raise ValueError("'run' needs either a fraction or a step; a run's name alone, as a text, takes its parameters only")
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction {self.fraction} must lie in 0..1")
        if self.step is not None and self.step < 0:
            raise ValueError(f"step {self.step} must not be negative")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run. Without `runs` a config means `{"cpt": {}}`."""

    stage: Literal["cpt", "sft"] = setting(
        "cpt", "what it trains on: cpt (continual pre-training) or sft (fine-tuning on the training sequences of `sets`)", affects=()
    )
    start: str | StartSpec = setting(
        BASE, "'base' (config.model), the name of a run (its parameters), {'hf': ...}, or {'run': ..., 'fraction': ...}", affects=()
    )
    seeds: int | None = setting(None, "how many, by seed (None: config.train.seeds, else config.evaluate.seeds)", affects=())
    sets: tuple[str, ...] | None = setting(None, "sft: which sets, each a run of its own (None: all downstream sets)", affects=())
    together: bool = setting(False, "sft: one run on all its sets", affects=())
    select: Literal["last", "nll", "ndcg@10"] = setting(
        "last",
        "the checkpoint it stands for: the last, or by validation users the lowest NLL or highest NDCG@10 (sft: ndcg@10)",
        affects=(),
    )
    select_from: tuple[float, ...] = setting(
        (0.2, 0.4, 0.6, 0.8, 1.0), "the fractions of the run whose checkpoints `select` chooses from", affects=()
    )
    patience: int | None = setting(
        None,
        "sft: stop after so many checkpoints of `select_from` that are no better (None: off; a run that stops early never anneals)",
        affects=(),
    )
    grid: Mapping[str, Any] = setting(
        factory=dict, help="settings with several values each, such as {'train': {'schedule': {'peak': (1e-4, 3e-4)}}}", affects=()
    )
    lora: LoraSpec | None = setting(
        None, "train an adapter of the linear layers instead of the model: a section with rank, alpha, ...", affects=("runs",)
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
            raise ValueError("grid: a run that goes on with another one has the settings of that one; start from its parameters")

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


def build_runs(raw: Mapping[str, Any]) -> dict[str, RunSpec]:
    """The runs of a whole config as plain dicts, each with the sections that it inherits, those that others start from first.

    Raises `UserError` with all mistakes: names, stages, unknown or circular starts, keys, and what a run may not change.
    """
    runs = raw.get("runs")
    if runs is None:
        runs = {CPT: {}} if raw.get("train") is not None else {}
    if not isinstance(runs, Mapping) or not all(isinstance(run, Mapping) for run in runs.values()):
        raise UserError("config.runs: expected a mapping from names to sections, such as {'cpt': {}}")
    mistakes = [mistake for name, run in runs.items() for mistake in _mistakes(name, run, runs)]
    if mistakes:
        raise UserError("\n".join(mistakes))
    made: dict[str, RunSpec] = {}
    models: dict[str, Mapping[str, Any]] = {}
    for name in _in_order(runs):
        try:
            models[name] = _model(raw, name, runs[name], models)
            section = {**runs[name], "train": _train(raw, runs[name]), "model": models[name]}
            where = f"config.runs.{name}" if "runs" in raw else "config"
            made[name] = build(RunSpec, section, where)
            grid_points(made[name], where)
            _check_line(made, name, where)
        except UserError as error:
            mistakes += [line.replace(f"config.runs.{name}.train", "config.train") if "runs" not in raw else line for line in _lines(error)]
            models.setdefault(name, {})
    if mistakes:
        raise UserError("\n".join(mistakes))
    return made


def _check_line(made: Mapping[str, RunSpec], name: str, where: str) -> None:
    """`UserError` where a run goes on with moments of other parameters than it trains."""
    run = made[name]
    parent = made.get(run.parent) if run.parent is not None else None
    if not run.goes_on or parent is None:
        return
    own, other = (None if one.lora is None else dataclasses.replace(one.lora, dropout=0.0) for one in (run, parent))
    if own != other:
        what = "no adapter" if other is None else f"an adapter with {shown(other)}"
        raise UserError(
            f"{where}.lora: {run.parent!r} trains {what}, and so must a run that goes on with its moments; start from its parameters "
            "instead"
        )


def shown(lora: LoraSpec) -> str:
    """The settings that make an adapter what it is, for messages."""
    return ", ".join(f"{key}={getattr(lora, key)!r}" for key in ("rank", "alpha", "rslora", "targets"))


def _lines(error: UserError) -> list[str]:
    return str(error).splitlines()


def _mistakes(name: str, run: Mapping[str, Any], runs: Mapping[str, Any]) -> list[str]:
    """What is wrong with a run's name, stage and start."""
    where = f"config.runs.{name}"
    found = []
    if not name or not all((c.isascii() and c.isalnum()) or c in "-_" for c in name) or name == BASE:
        found.append(f"{where}: the name becomes a directory: use letters, digits, '-' and '_', and not {BASE!r}")
    stage = run.get("stage", CPT)
    if stage in COMES:
        found.append(f"{where}.stage: {stage!r} is not there yet; 'cpt' and 'sft' are")
    of_others = [other for other in (CPT, SFT) if other in run and other != stage]
    found += [f"{where}.{other}: belongs to the stage {other!r}, and the run is of the stage {stage!r}" for other in of_others]
    if stage != SFT:
        found += [f"{where}.{key}: belongs to the stage 'sft', and the run is of the stage {stage!r}" for key in OF_SFT if key in run]
    else:
        given = [key for key in OF_CPT if key in (run.get("train") or {})]
        found += [f"{where}.train.{key}: belongs to the stage 'cpt'; fine-tuning reads all rows of its sets" for key in given]
    parent = _parent(run)
    if parent is not None and parent not in runs:
        found.append(f"{where}.start: no run {parent!r}{nearest(parent, [*runs, BASE])}")
    line, other = [name], parent
    while other is not None and other in runs and other not in line:
        line.append(other)
        other = _parent(runs[other])
    if other == name:
        found.append(f"{where}.start: a ring: {' starts from '.join([*line, name])}")
    return found


def _parent(run: Mapping[str, Any]) -> str | None:
    start = run.get("start", BASE)
    start = start.get("run") if isinstance(start, Mapping) else start
    return None if start is None or str(start) == BASE else str(start)


def _in_order(runs: Mapping[str, Any]) -> list[str]:
    """Those that others start from first."""
    done: list[str] = []

    def visit(name: str) -> None:
        parent = _parent(runs[name])
        if parent is not None:
            visit(parent)
        if name not in done:
            done.append(name)

    for name in runs:
        visit(name)
    return done


def _train(raw: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """`config.train` with what the run says, key by key; a length of its own replaces the inherited one."""
    inherited, own = dict(raw.get("train") or {}), run.get("train") or {}
    if any(own.get(key) is not None for key in LENGTHS):
        inherited = {key: value for key, value in inherited.items() if key not in LENGTHS}
    if run.get("stage") == SFT:
        inherited = {key: value for key, value in inherited.items() if key not in OF_CPT}
    merged = _merged(inherited, own)
    goes_on = isinstance(run.get("start"), Mapping) and run["start"].get("run") is not None
    if goes_on and "warmup" not in (own.get("schedule") or {}):
        merged["schedule"] = {**(merged.get("schedule") or {}), "warmup": 0.0}
    return merged


def _model(raw: Mapping[str, Any], name: str, run: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`config.model`, or the model of the run that it starts from, with what the run says."""
    own, parent, start = dict(run.get("model") or {}), _parent(run), run.get("start", BASE)
    inherited = dict((raw.get("model") or {}) if parent is None else models[parent])
    another = isinstance(start, Mapping) and start.get("hf") is not None
    if another:
        inherited = {**{key: value for key, value in inherited.items() if key in COMPUTES}, "init_from": start["hf"]}
    if parent is not None or another or inherited.get("init_from") is not None:
        for key in own:
            if key not in COMPUTES:
                raise UserError(
                    f"config.runs.{name}.model.{key}: the model is that of {parent or inherited['init_from']}, so a run may only change "
                    f"{', '.join(COMPUTES)}"
                )
    return {**inherited, **own}


def _merged(inherited: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(inherited)
    for key, value in own.items():
        before = both.get(key)
        both[key] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return both


def rows_kind(run: RunSpec) -> RowsKind:
    """The rows that a run reads."""
    if run.stage == CPT:
        return RowsKind(stage="cpt")
    return RowsKind(stage="sft", targets=run.sft.targets, users=run.sft.users)
