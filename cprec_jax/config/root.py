"""The whole config as one tree, made once, in `launch`."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cprec_jax.config.build import build, nearest, section_class
from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.evaluate import EvaluateSpec, MethodSpec
from cprec_jax.config.export import ExportSpec
from cprec_jax.config.generate import GenerateSpec
from cprec_jax.config.grid import grid_points
from cprec_jax.config.mesh import MeshSpec
from cprec_jax.config.model import ModelSpec
from cprec_jax.config.pack import PackSpec, Stage
from cprec_jax.config.report import ReportSpec
from cprec_jax.config.rows import RowsKind
from cprec_jax.config.run import CPT, SFT, RunSpec, rows_kind
from cprec_jax.config.runs import LENGTHS, build_runs
from cprec_jax.config.setting import setting
from cprec_jax.config.text import TRAIN, TextSpec
from cprec_jax.config.train import TrainSpec
from cprec_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Config:
    """All sections. Those that are None were not given, and their jobs are not part of the road: `corpus`, `train` and
    `export`."""

    name: str = ""
    corpus: CorpusSpec | None = None
    text: TextSpec = setting(factory=TextSpec)
    pack: PackSpec = setting(factory=PackSpec)
    model: ModelSpec = setting(factory=ModelSpec)
    train: TrainSpec | None = None
    runs: Mapping[str, RunSpec] = setting(factory=dict)
    mesh: MeshSpec = setting(factory=MeshSpec)
    evaluate: EvaluateSpec = setting(factory=EvaluateSpec)
    export: ExportSpec | None = None
    generate: GenerateSpec = setting(factory=GenerateSpec)
    report: ReportSpec = setting(factory=ReportSpec)

    @property
    def corpus_section(self) -> CorpusSpec:
        """`corpus`, for the jobs that need it."""
        if self.corpus is None:
            raise UserError("config.corpus: missing; `prepare` needs a section that names its sources")
        return self.corpus

    def seeds_of(self, name: str) -> int:
        """How many seeds a run has: its own number, else that of `config.train`, else that of `config.evaluate`."""
        run = self.runs[name]
        return run.seeds or run.train.seeds or self.evaluate.seeds

    def of_run(self, name: str, seed: int = 0, point: int | None = None) -> "Config":
        """The config of one run: `train` and `model` are its own, for seed number `seed`, and number `point` of its
        grid."""
        run = self.runs[name] if point is None else grid_points(self.runs[name], f"config.runs.{name}")[point].run
        return dataclasses.replace(self, train=run.train.of_seed(seed), model=run.model, runs={name: run})

    def sets_of(self, name: str) -> tuple[str, ...]:
        """The sets that a run is fine-tuned on; none for pre-training."""
        run = self.runs[name]
        if run.stage != SFT:
            return ()
        if run.sets is not None:
            return run.sets
        if self.corpus is None:
            raise UserError(
                f"config.runs.{name}.sets: name the sets; the config has no section `corpus` that says which are "
                "downstream"
            )
        return tuple(source.name for source in self.corpus.sources if source.role == "downstream")

    def parts_of(self, name: str) -> tuple[str | None, ...]:
        """What a run name stands for: one run per set that is fine-tuned by itself, else one run, None."""
        return (None,) if self.runs[name].together else self.sets_of(name) or (None,)

    def base_run_of(self, name: str) -> str | None:
        """The run whose model the adapter of a run is added to: the last one before it that has no adapter. None: the
        base model."""
        parent = self.runs[name].parent
        while parent is not None and self.runs[parent].lora is not None:
            parent = self.runs[parent].parent
        return parent

    def seeds_of_row(self, row: MethodSpec) -> int:
        """How many seeds a row of a language model has: those of its run; of a run that is not in this config, as many
        as are evaluated."""
        if row.path is None and self.runs:
            return self.seeds_of(self.run_of_row(row))
        return (self.train.seeds if self.train is not None else None) or self.evaluate.seeds

    def run_of_row(self, row: MethodSpec) -> str:
        """The run that a row asks: the one it names, else the one that is meant where none is named."""
        return row.run or (CPT if row.path is not None else self.only_run)

    @property
    def train_section(self) -> TrainSpec:
        """`train` of the config of one run."""
        if self.train is None:
            raise UserError(
                "config.train: missing; `train` needs a section that says how long (steps, epochs or tokens)"
            )
        return self.train

    @property
    def only_run(self) -> str:
        """The run that is meant where none is named: `cpt`, or the only one."""
        if CPT in self.runs or not self.runs:
            return CPT
        if len(self.runs) == 1:
            return next(iter(self.runs))
        raise UserError(f"say which run; the config has {', '.join(self.runs)}")

    @property
    def row_sources(self) -> tuple[str, ...]:
        """The optional row sources that the rows of pre-training must hold for its runs, in alphabetical order."""
        return tuple(
            sorted({source for run in self.runs.values() if run.stage == CPT for source in run.train.row_sources})
        )

    @property
    def rows_kinds(self) -> dict[RowsKind, tuple[str, ...]]:
        """The rows that `config.pack.stages` and the runs need, those of pre-training first, each with the sets that it
        must hold.

        Those of pre-training hold every domain, which is not said here.
        """
        stages: tuple[Stage, ...] = self.pack.stages or (() if self.runs else ("cpt",))
        sets_by_kind: dict[RowsKind, dict[str, None]] = {RowsKind(stage=stage): {} for stage in stages}
        if self.corpus is not None and RowsKind(stage="sft") in sets_by_kind:
            sets_by_kind[RowsKind(stage="sft")] = {
                source.name: None for source in self.corpus.sources if source.role == "downstream"
            }
        for name, run in self.runs.items():
            sets_by_kind.setdefault(rows_kind(run), {}).update(dict.fromkeys(self.sets_of(name)))
        ordered = sorted(sets_by_kind, key=lambda kind: (kind.stage != CPT, kind.name))
        return {kind: tuple(sets_by_kind[kind]) for kind in ordered}


SECTIONS = tuple(field.name for field in dataclasses.fields(Config))
OPTIONAL = ("corpus", "train", "runs", "export")  # None is as good as absent


def section_classes() -> dict[str, type]:
    """The class of each section, by its name."""
    hints = typing.get_type_hints(Config)
    return {"runs": RunSpec} | {
        name: section for name in SECTIONS if (section := section_class(hints[name])) is not None
    }


def make_config(raw: Mapping[str, Any]) -> Config:
    """The typed config of plain nested dicts. Raises `UserError` with all mistakes, one line each."""
    classes = section_classes()
    sections: dict[str, Any] = {}
    mistakes = []
    for name, section in raw.items():
        try:
            if name not in SECTIONS:
                raise UserError(f"config.{name}: unknown section{nearest(name, SECTIONS)}")
            if name not in classes:
                sections[name] = str(section)
            elif section is None and name in OPTIONAL:
                continue
            elif not isinstance(section, Mapping):
                raise UserError(f"config.{name}: expected a section, got {type(section).__name__} {section!r}")
            elif name == "train":
                # Lengths may come with the runs; everything else is checked once, here, and not again in each of them.
                length = (
                    {} if any(section.get(key) is not None for key in LENGTHS) or not raw.get("runs") else {"steps": 1}
                )
                sections[name] = build(TrainSpec, {**section, **length}, "config.train")
            elif name != "runs":
                sections[name] = build(classes[name], section, f"config.{name}")
        except UserError as error:
            mistakes += str(error).splitlines()
    if not {"train", "model"} - sections.keys() & raw.keys():
        try:
            sections["runs"] = build_runs(raw)
        except UserError as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise UserError("\n".join(dict.fromkeys(mistakes)))
    config = Config(**sections)
    if "names" not in (raw.get("evaluate") or {}):
        config = _with_rows(config)
    check_runs(config)
    return with_tokenizer(config)


def _with_rows(config: Config) -> Config:
    """A config that names no rows: two baselines, and every run before and after."""
    if not config.runs:
        return config
    first = next(name for name, run in config.runs.items() if run.parent is None)
    rows = {
        "random": MethodSpec(kind="random"),
        "popularity": MethodSpec(kind="popularity"),
        "untrained": MethodSpec(kind="untrained", run=first),
    }
    rows |= {name: MethodSpec(kind="checkpoint", run=name) for name in config.runs}
    return dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, names=rows))


def check_runs(config: Config) -> None:
    """`UserError` for seeds that do not fit those of the start, and for rows and exports that name no run, or one that
    is not there."""
    mistakes = []
    for name, run in config.runs.items():
        mistakes += _mistakes_of_sets(config, name)
        if run.parent is None:
            continue
        seeds, seeds_of_parent = config.seeds_of(name), config.seeds_of(run.parent)
        if seeds_of_parent != 1 and seeds_of_parent < seeds:
            mistakes.append(
                f"config.runs.{name}.seeds: {seeds}, but {run.parent!r}, from which it starts, has {seeds_of_parent}; "
                "give both the same, or start from a run of one seed"
            )
    several = CPT not in config.runs and len(config.runs) > 1  # so that one must be named
    for name, row in config.evaluate.names.items():
        if row.path is not None or row.kind not in ("untrained", "checkpoint") or not config.runs:
            continue
        if row.run is not None and row.run not in config.runs:
            mistakes.append(f"config.evaluate.names.{name}.run: no run {row.run!r}{nearest(row.run, config.runs)}")
        elif row.run is None and several:
            mistakes.append(f"config.evaluate.names.{name}.run: say which run; the config has {', '.join(config.runs)}")
    if config.export is not None and config.runs:
        if config.export.runs is None and several:
            mistakes.append(f"config.export.runs: say which runs; the config has {', '.join(config.runs)}")
        unknown = [run for run in config.export.runs or () if run not in config.runs]
        mistakes += [f"config.export.runs: no run {run!r}{nearest(run, config.runs)}" for run in unknown]
        mistakes += _mistakes_of_adapters(config)
    if mistakes:
        raise UserError("\n".join(mistakes))


def _mistakes_of_adapters(config: Config) -> list[str]:
    """Exports of adapters without a base that others have."""
    assert config.export is not None
    names = config.export.runs or ((config.only_run,) if CPT in config.runs or len(config.runs) == 1 else ())
    if "adapter" not in config.export.lora:
        return []
    return [
        f"config.export.lora: the base of {name!r} is a new model that no one else has, so its adapter says nothing; "
        "export it merged, or "
        "let it start from a run"
        for name in names
        if name in config.runs
        and config.runs[name].lora is not None
        and config.base_run_of(name) is None
        and config.runs[name].model.init_from is None
    ]


def _mistakes_of_sets(config: Config, name: str) -> list[str]:
    """Sets that the corpus lacks, or that the run it starts from was not fine-tuned on."""
    run, where = config.runs[name], f"config.runs.{name}"
    try:
        parts = config.parts_of(name)
    except UserError as error:
        return [str(error)]
    mistakes = []
    if config.corpus is not None:
        known = [source.name for source in config.corpus.sources]
        mistakes += [
            f"{where}.sets: no source of config.corpus is called {set_name!r}{nearest(set_name, known)}"
            for set_name in run.sets or ()
            if set_name not in known
        ]
        if run.stage == SFT and not config.sets_of(name):
            mistakes.append(
                f"{where}.sets: the corpus has no downstream set; name the sets to fine-tune on, such as {known[0]!r}"
            )
    if run.parent is None:
        return mistakes
    before = config.parts_of(run.parent)
    if before != (None,) and not set(parts) <= set(before):
        lacking = ", ".join("all sets together" if part is None else part for part in parts if part not in before)
        mistakes.append(
            f"{where}.start: {run.parent!r} is a run per set ({', '.join(map(str, before))}), which none is of "
            f"{lacking}"
        )
    return mistakes


def with_tokenizer(config: Config) -> Config:
    """A config whose tokenizer is decided: where it names none, it is the base model's, and without a base model one is
    trained."""
    if config.text.tokenizer is not None:
        return config
    return dataclasses.replace(config, text=dataclasses.replace(config.text, tokenizer=_base_model(config) or TRAIN))


def _base_model(config: Config) -> str | None:
    """That of `config.model`, or of the first run that has another."""
    return config.model.init_from or next(
        (run.model.init_from for run in config.runs.values() if run.model.init_from), None
    )
