"""The method of each row of the table: kind -> maker."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from cprec_jax.config.evaluate import TITLES, VALIDATION, EvaluateSpec, MethodSpec
from cprec_jax.config.root import Config
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.kept import Store
from cprec_jax.evaluate.method import Method
from cprec_jax.inference.title_states import title_states
from cprec_jax.methods.counting import Counted, Counter, DecayedPopularity, ItemKNN, LastItems, Markov, PlainPopularity
from cprec_jax.methods.ensemble import Ensemble
from cprec_jax.methods.graph import Graph
from cprec_jax.methods.oracle import Oracle
from cprec_jax.methods.popularity import Popularity
from cprec_jax.methods.random import Random
from cprec_jax.methods.runs_of_rows import parts_of, runs_of, seeds_of, work_directory_of
from cprec_jax.methods.score_file import ScoreFile
from cprec_jax.methods.select import of_checkpoints
from cprec_jax.methods.sequential import Sequential
from cprec_jax.methods.text_knn import TextKNN
from cprec_jax.methods.title_embeddings import from_states, from_tf_idf
from cprec_jax.methods.title_model import TitleModel
from cprec_jax.paths import local_path
from cprec_jax.train.open import LoadedModel, load_model

COUNTERS: dict[str, type[Counter]] = {
    "popularity": PlainPopularity,
    "popularity_decayed": DecayedPopularity,
    "last_items": LastItems,
    "markov": Markov,
    "item_knn": ItemKNN,
}
Made = tuple[Method, int | None]


def is_tuned(spec: MethodSpec) -> bool:
    """Whether a method counts and looks at the validation split. Popularity of the training period needs no choice."""
    return spec.kind in COUNTERS and (spec.kind, spec.fit) != ("popularity", "train")


@dataclass(kw_only=True)
class Registry:
    """Makes the methods of one job. What several rows share is made once.

    spec: `config.evaluate`, with the scoring rule once that is chosen. validation: the validation users by set. store:
    what earlier evaluations kept.
    """

    spec: EvaluateSpec
    config: Config
    workdir: Path
    corpus: Corpus
    validation: dict[str, EvalSet]
    store: Store
    _text_knn: TextKNN = field(init=False)
    _sequential: dict[tuple[str, int], Sequential] = field(default_factory=dict)  # by row and seed
    _features: dict[str, Callable[[EvalSet], np.ndarray] | None] = field(default_factory=dict)  # by sequential row
    _members: dict[str, Method] = field(default_factory=dict)  # of one seed that serve all seeds of an ensemble

    def __post_init__(self) -> None:
        self._text_knn = TextKNN(self.spec.text_knn, self.corpus)

    def make(self, row: str, seed: int, part: str | None = None) -> Made:
        """The method of one seed of a row, and the training step that it is of (None: it has none).

        part: the set whose run is loaded, where there is one run per set.
        """
        kind = self.spec.names[row].kind
        return self.MAKERS["counting" if is_tuned(self.spec.names[row]) else kind](self, row, seed, part)

    def forget_members(self) -> None:
        """Free what was kept for the seeds of an ensemble."""
        self._members.clear()

    def _of_run(self, row: str, seed: int, part: str | None) -> Made:
        chosen, template = self.spec.names[row], self.config.text.template
        home = work_directory_of(chosen, self.workdir)
        per_set = parts_of(chosen, self.config) is not None
        directory = runs_of(chosen, self.config, self.workdir, part if per_set else None)[seed]
        validation = {name: users for name, users in self.validation.items() if part is None or name == part}
        if chosen.step != VALIDATION:
            model = load_model(chosen, template, home, self.corpus, directory)
            return TitleModel(model, self.spec, validation), model.step

        def load(step: int) -> LoadedModel:
            return load_model(dataclasses.replace(chosen, step=step), template, home, self.corpus, directory)

        nll = of_checkpoints(directory, load, "nll", self.spec, validation)
        best = min(nll, key=nll.__getitem__)
        facts = {"validation_nll_by_step": {str(step): value for step, value in nll.items()}}
        return TitleModel(load(best), self.spec, validation, facts), best

    def _of_directory(self, row: str, seed: int, part: str | None) -> Made:
        model = load_model(self.spec.names[row], self.config.text.template, self.workdir, self.corpus)
        return TitleModel(model, self.spec, self.validation), model.step

    def _trained(self, row: str, seed: int, part: str | None) -> Made:
        kind, spec = self.spec.names[row].kind, self.spec
        assert kind == "gru4rec" or kind == "sasrec"
        if row not in self._features:
            self._features[row] = self._title_features(self.spec.names[row])
        for number in (0, seed):  # the first seed chooses for all
            if (row, number) not in self._sequential:
                first, shelf = self._sequential.get((row, 0)), self.store.shelf(row, number)
                self._sequential[row, number] = Sequential(
                    kind, spec.sequential, self.corpus, spec.temperatures, number, first, self._features[row], shelf
                )
        return self._sequential[row, seed], None

    def _title_features(self, chosen: MethodSpec) -> Callable[[EvalSet], np.ndarray] | None:
        """The features that the item embeddings of a sequential method start from, by set; None: random numbers."""
        width = self.spec.sequential.hidden
        if chosen.init is None:
            return None
        if chosen.init == TITLES:
            return lambda data: from_tf_idf(data.titles, width)
        row = self.spec.names[chosen.init]
        home = work_directory_of(row, self.workdir)
        parts = None if row.kind == "hf" else parts_of(row, self.config)

        @functools.cache
        def model(part: str | None) -> LoadedModel:  # not before something is trained
            # of several seeds the first
            directory = None if row.kind == "hf" else runs_of(row, self.config, self.workdir, part)[0]
            return load_model(row, self.config.text.template, home, self.corpus, directory)

        def states(data: EvalSet) -> np.ndarray:
            loaded = model(None if parts is None else data.name)
            return from_states(title_states(loaded.decoder, loaded.params, loaded.catalogue, data.items), width)

        return states

    def _ensemble(self, row: str, seed: int, part: str | None) -> Made:
        seeds = {member: seeds_of(self.config, member) for member in self.spec.names[row].members}
        if any(n not in (1, max(seeds.values())) for n in seeds.values()):
            raise UserError(
                f"config.evaluate.names.{row}: its members have {list(seeds.values())} seeds; give all the same"
            )
        members = {}
        for member, n in seeds.items():
            members[member] = self._members.get(member) or self.make(member, seed % n, part)[0]
            if n == 1 and part is None:
                self._members[member] = members[member]
        return Ensemble(members, self.spec.ensemble, self.corpus), None

    def _counting(self, row: str, seed: int, part: str | None) -> Made:
        chosen = self.spec.names[row]
        return Counted(COUNTERS[chosen.kind](), self.corpus, self.validation, chosen.fit), None

    def _text(self, row: str, seed: int, part: str | None) -> Made:
        return self._text_knn, None

    def _graph(self, row: str, seed: int, part: str | None) -> Made:
        return Graph(self._text_knn, self.corpus, self.spec.names[row].fit), None

    def _scores(self, row: str, seed: int, part: str | None) -> Made:
        return ScoreFile(local_path(str(self.spec.names[row].path), "config.evaluate.names: path"), self.corpus), None

    MAKERS: ClassVar[dict[str, Callable[["Registry", str, int, str | None], Made]]] = {
        "untrained": _of_run,
        "checkpoint": _of_run,
        "hf": _of_directory,
        "gru4rec": _trained,
        "sasrec": _trained,
        "ensemble": _ensemble,
        "counting": _counting,
        "text_knn": _text,
        "graph": _graph,
        "scores": _scores,
        "random": lambda *_: (Random(), None),
        "popularity": lambda *_: (Popularity(), None),
        "oracle": lambda *_: (Oracle(), None),
    }
