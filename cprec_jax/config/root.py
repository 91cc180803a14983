"""The whole config as one tree, made once, in `launch`."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cprec_jax.config.build import build, nearest, section_class
from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.config.export import ExportSpec
from cprec_jax.config.generate import GenerateSpec
from cprec_jax.config.mesh import MeshSpec
from cprec_jax.config.model import ModelSpec
from cprec_jax.config.pack import PackSpec
from cprec_jax.config.report import ReportSpec
from cprec_jax.config.setting import setting
from cprec_jax.config.text import TRAIN, TextSpec
from cprec_jax.config.train import TrainSpec
from cprec_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Config:
    """All sections. Those that are None were not given, and their jobs are not part of the road: `corpus`, `train` and `export`."""

    name: str = ""
    corpus: CorpusSpec | None = None
    text: TextSpec = setting(factory=TextSpec)
    pack: PackSpec = setting(factory=PackSpec)
    model: ModelSpec = setting(factory=ModelSpec)
    train: TrainSpec | None = None
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

    @property
    def train_section(self) -> TrainSpec:
        """`train`, for the jobs that need it."""
        if self.train is None:
            raise UserError("config.train: missing; `train` needs a section that says how long (steps, epochs or tokens)")
        return self.train

    @property
    def seeds(self) -> int:
        """How many runs it means: `train.seeds`, else `evaluate.seeds`."""
        given = None if self.train is None else self.train.seeds
        return self.evaluate.seeds if given is None else given

    def of_seed(self, number: int) -> "Config":
        """The config of run `number` of several seeds; the first is the config itself."""
        return dataclasses.replace(self, train=self.train_section.of_seed(number)) if number else self


SECTIONS = tuple(field.name for field in dataclasses.fields(Config))


def section_classes() -> dict[str, type]:
    """The class of each section, by its name."""
    hints = typing.get_type_hints(Config)
    return {name: found for name in SECTIONS if (found := section_class(hints[name])) is not None}


def make_config(raw: Mapping[str, Any]) -> Config:
    """The typed config of plain nested dicts. Raises `UserError` with all mistakes, one line each."""
    classes = section_classes()
    made: dict[str, Any] = {}
    mistakes = []
    for name, section in raw.items():
        try:
            if name not in SECTIONS:
                raise UserError(f"config.{name}: unknown section{nearest(name, SECTIONS)}")
            if name not in classes:
                made[name] = str(section)
            elif isinstance(section, Mapping):
                made[name] = build(classes[name], section, f"config.{name}")
            elif section is not None or name not in ("corpus", "train", "export"):
                raise UserError(f"config.{name}: expected a section, got {type(section).__name__} {section!r}")
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))
    return with_tokenizer(Config(**made))


def with_tokenizer(config: Config) -> Config:
    """A config whose tokenizer is decided: where it names none, it is the base model's, and without a base model one is trained."""
    if config.text.tokenizer is not None:
        return config
    return dataclasses.replace(config, text=dataclasses.replace(config.text, tokenizer=config.model.init_from or TRAIN))
