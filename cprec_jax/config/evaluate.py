"""`config.evaluate`: what is compared, on which users, by which rule."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cprec_jax.config.build import at_least_one, nearest
from cprec_jax.config.sequential import SequentialSpec
from cprec_jax.config.setting import setting

Kind = Literal[
    "random",
    "popularity",
    "popularity_decayed",
    "last_items",
    "markov",
    "item_knn",
    "text_knn",
    "graph",
    "gru4rec",
    "sasrec",
    "ensemble",
    "oracle",
    "untrained",
    "checkpoint",
    "hf",
    "scores",
]
RUN_KINDS = ("untrained", "checkpoint")  # language models that a run trained
MODEL_KINDS = (*RUN_KINDS, "hf")  # language models
SEQUENTIAL_KINDS = ("gru4rec", "sasrec")
TEXT_KINDS = ("text_knn", "graph")
COUNTED = ("popularity", "popularity_decayed", "last_items", "markov", "item_knn", "graph")
UNSEEDED_KINDS = ("random", *COUNTED, "text_knn", "oracle", "hf", "scores")  # every seed gives the same
Rule = Literal["trie", "sum", "mean"]
Unit = Literal["words", "characters"]
Weighting = Literal["tfidf", "bm25"]
TITLES = "titles"  # the value of `init` that needs no model
VALIDATION: Literal["validation"] = "validation"  # the value of keys that validation users choose


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """One row of the table; `kind` says what ranks."""

    kind: Kind = setting(
        help="what ranks: a baseline, a language model (untrained, checkpoint, hf), an ensemble, or a file of scores"
    )
    step: int | Literal["validation"] | None = setting(
        None,
        "kind checkpoint: which, or validation: the one with the lowest NLL on validation users (None: the newest)",
    )
    fraction: float | None = setting(None, "kind checkpoint: the one nearest to this fraction of the run")
    path: str | None = setting(
        None,
        "hf: directory or hub id; scores: a file of user_id, item_id, score; checkpoint: another work directory, or a "
        "run in it",
        content=True,
    )
    run: str | None = setting(None, "untrained, checkpoint: which run (None: cpt, or the only one)")
    label: str = setting("", "what tables print instead of the name", affects=("report",))
    fit: Literal["train", "history"] = setting(
        "train", "counted kinds: on the training sequences, or with the history of evaluated users, too"
    )
    members: tuple[str, ...] = setting((), "ensemble: the names of two or three rows")
    init: str | None = setting(
        None,
        "gru4rec, sasrec: item embeddings start from titles: 'titles' (TF-IDF, reduced), or a row of a language model",
    )

    @classmethod
    def complete(cls, section: Mapping[str, Any]) -> dict[str, Any]:
        """A row that names a run is a checkpoint of it."""
        return {"kind": "checkpoint", **section} if "run" in section else dict(section)

    def __post_init__(self) -> None:
        if self.run is not None and self.kind not in RUN_KINDS:
            raise ValueError(f"run belongs to the kinds 'untrained' and 'checkpoint', not to {self.kind!r}")
        if (self.kind == "ensemble") != bool(self.members) or (self.members and len(set(self.members)) not in (2, 3)):
            raise ValueError("members belongs to the kind 'ensemble', which needs the names of two or three rows")
        if len(set(self.members)) < len(self.members):
            raise ValueError(f"members {self.members}: a row is named twice")
        if self.init is not None and self.kind not in SEQUENTIAL_KINDS:
            raise ValueError("init belongs to the kinds 'gru4rec' and 'sasrec'")
        if self.fit != "train" and self.kind not in COUNTED:
            raise ValueError(f"fit belongs to the kinds {', '.join(COUNTED)}")
        if (self.kind in ("hf", "scores")) != (self.path is not None) and (
            self.kind != "checkpoint" or self.path == ""
        ):
            raise ValueError("path belongs to the kinds 'hf' and 'scores', which need it, and to 'checkpoint'")
        if self.step is not None and self.fraction is not None:
            raise ValueError("give step or fraction, not both")
        if self.kind != "checkpoint" and (self.step, self.fraction) != (None, None):
            raise ValueError(f"step and fraction belong to the kind 'checkpoint', not to {self.kind!r}")


def parse_features(features: str) -> tuple[Unit, int, int]:
    """`words 1-2` -> words, 1, 2: n-grams of one and two words. `characters 3` has one length. Anything else is a
    `ValueError`."""
    match = re.fullmatch(r"(words|characters) ([1-9])(?:-([1-9]))?", features)
    if match is None or int(match[3] or match[2]) < int(match[2]):
        raise ValueError(
            f"features {features!r}: expected a unit and lengths of n-grams, such as 'words 1-2' or 'characters 3-5'"
        )
    return ("words" if match[1] == "words" else "characters"), int(match[2]), int(match[3] or match[2])


@dataclass(frozen=True, kw_only=True)
class TextKNNSpec:
    """The grid of the kind `text_knn`; without validation users the first values are taken."""

    features: tuple[str, ...] = setting(
        ("words 1", "words 1-2", "characters 3-5"),
        "n-grams of titles: words 1-2, characters 3-5 (scripts without spaces: characters 1-2)",
    )
    weightings: tuple[Weighting, ...] = setting(("tfidf", "bm25"), "tfidf (cosine), bm25")
    step_weights: tuple[float, ...] = setting(
        (0.8, 1.0, 0.65, 0.5), "an item of the history counts with step_weight ** age"
    )
    last_items: tuple[int, ...] = setting((50, 10, 5), "how many of the newest items count")
    own_items: bool = setting(
        True, "where histories are ranked, try whether items of the history are like themselves, too"
    )
    validation_users: int = setting(2000, "of the set's validation users, a seeded choice")

    def __post_init__(self) -> None:
        for name in ("features", "weightings", "step_weights", "last_items"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        for features in self.features:
            parse_features(features)
        if not all(0 < weight <= 1 for weight in self.step_weights):
            raise ValueError(f"step_weights {self.step_weights} must be above 0 and at most 1")
        if min(self.last_items) < 1:
            raise ValueError(f"last_items {self.last_items} must be at least 1")
        at_least_one(self, "validation_users")


@dataclass(frozen=True, kw_only=True)
class EnsembleSpec:
    """For rows of the kind `ensemble`."""

    parts: int = setting(10, "weights are multiples of 1 / parts")
    temperatures: tuple[float, ...] = setting(
        (0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0),
        "of the product; the one with the lowest NLL is taken",
    )
    validation_users: int = setting(
        2000, "of the set's validation users, a seeded choice; every member ranks them, too"
    )

    def __post_init__(self) -> None:
        at_least_one(self, "parts", "validation_users")
        if not self.temperatures or not all(0 < value < math.inf for value in self.temperatures):
            raise ValueError(f"temperatures {self.temperatures} must be above 0 and finite, and at least one")


def _default_names() -> dict[str, MethodSpec]:
    return {
        "random": MethodSpec(kind="random"),
        "popularity": MethodSpec(kind="popularity"),
        "untrained": MethodSpec(kind="untrained"),
        "cpt": MethodSpec(kind="checkpoint"),
    }


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec:
    """What is compared, on which users, by which rule."""

    names: Mapping[str, MethodSpec] = setting(
        factory=_default_names, help="the results to make, {NAME: {kind: ...}}", affects=("results:{key}",)
    )
    sets: tuple[str, ...] | None = setting(None, "of the corpus (None: all)")
    split: Literal["test", "valid"] = setting("test", "whose users are ranked for")
    protocols: tuple[str, ...] = setting(
        ("full", "u20", "u100", "p20"), "full: the whole catalogue; u20, u100, p20: sampled candidates of the corpus"
    )
    rule: Rule | Literal["validation"] = setting(
        "trie",
        "trie (exact over the catalogue), sum or mean (of the title's tokens), or validation: the best MRR among 99 "
        "negatives",
        affects=("results.model",),
    )
    temperature: float | Literal["validation"] = setting(
        "validation",
        "a number, or validation: the one of `temperatures` with the lowest NLL on validation users, per set (rule "
        "trie)",
        affects=("results.model",),
    )
    temperatures: tuple[float, ...] = setting(
        (0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0),
        "to choose from",
        affects=("results.model", "results.sequential"),
    )
    pmi: float | Literal["validation"] = setting(
        0.0,
        "how much of a title's log-probability after an EMPTY history is taken off, or validation: the lowest NLL "
        "(trie)",
        affects=("results.model",),
    )
    pmi_weights: tuple[float, ...] = setting((0.0, 0.25, 0.5, 0.75, 1.0), "to choose from", affects=("results.model",))
    ranks_to: int | None = setting(
        None,
        "find so many best titles (100 or more) by branch and bound; other targets count as last (None: every rank)",
        affects=("results.model",),
    )
    beam: int | None = setting(
        None,
        "measure, too, how much of the best 1, 10 and 100 a beam of so many nodes per level finds",
        affects=("results.model",),
    )
    general_text: str | None = setting(
        None,
        "a held-out UTF-8 file, whose perplexity shows what pre-training made a model forget",
        affects=("results.model",),
        content=True,
    )
    leak_probe: int | None = setting(
        None,
        "of so many titles and users per set, how many a language model continues verbatim",
        affects=("results.model",),
    )
    max_users: int | None = setting(None, "per set, a seeded choice (None: all)")
    validation_users: int = setting(500, "per set, a seeded choice, for all that is chosen")
    prompt_tokens: int = setting(
        256, "the most recent items that fit so many tokens make up a prompt", affects=("results.model",)
    )
    node_chunk: int = setting(1024, "nodes of the title trie that go through the model at a time", affects=())
    batch_users: int = setting(32, "users per device and batch, at most", affects=())
    batch_tokens: int | None = setting(
        None, "prompt tokens and nodes per device and batch, at most (None: what suits the device)", affects=()
    )
    devices: int | None = setting(None, "local devices that share the users (None: all)", affects=())
    mask_history: Literal["auto", "never", "always"] = setting(
        "auto", "leave items of the history out of the ranking (auto: where no user of the set ever repeats one)"
    )
    bootstrap: int = setting(1000, "resamples for the intervals; 0 is none")
    seed: int = setting(0, "of the choice of users and the bootstrap")
    seeds: int = setting(
        1,
        "of GRU4Rec, SASRec and (unless config.train.seeds is set) the runs; metrics are means over them",
        affects=("results.sequential", "results.runs"),
    )
    sequential: SequentialSpec = setting(
        factory=SequentialSpec, help="sizes and grid of GRU4Rec and SASRec", affects=("results.sequential",)
    )
    text_knn: TextKNNSpec = setting(
        factory=TextKNNSpec, help="grid of the similarity of titles", affects=("results.text_knn",)
    )
    ensemble: EnsembleSpec = setting(factory=EnsembleSpec, help="weights of ensembles", affects=("results.ensemble",))

    def grids(self, users: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Temperatures and pmi weights to choose from; without validation `users` 1 and 0 where they would choose."""
        temperatures = self.temperatures if users else (1.0,)
        weights = self.pmi_weights if users else (0.0,)
        return (
            temperatures if self.temperature == VALIDATION else (float(self.temperature),),
            weights if self.pmi == VALIDATION else (float(self.pmi),),
        )

    def validates(self) -> bool:
        """Whether language models need validation users."""
        chosen = any(method.step == VALIDATION for method in self.names.values())
        return chosen or self.rule == VALIDATION or (self.rule == "trie" and VALIDATION in (self.temperature, self.pmi))

    def rows_of(self, name: str) -> tuple[str, ...]:
        """The row, and those it is an ensemble of."""
        return (name, *self.names[name].members)

    def uses_model(self, name: str) -> bool:
        """Whether a language model is asked for a row."""
        return any(self.names[row].kind in MODEL_KINDS for row in self.rows_of(name))

    def rule_chooser(self) -> str | None:
        """The name on which validation chooses the rule of all language models: the first by the alphabet that is
        trained, else the first.

        `ConfigDict` sorts names, so the order they are written in is lost.
        """
        models = [name for name, method in self.names.items() if method.kind in MODEL_KINDS]
        return min(models, key=lambda name: (self.names[name].kind == "untrained", name), default=None)

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("names is empty; name at least one result")
        for name in self.names:
            if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
                raise ValueError(f"name {name!r} becomes a directory: use letters, digits, '-', '_' and '.'")
        labels = [method.label or name for name, method in self.names.items()]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"names: {label!r} is what two rows are called; give each its own label")
        for name, method in self.names.items():
            if method.init not in (None, TITLES):
                self._check_init(name, str(method.init))
            for member in method.members:
                if member not in self.names:
                    raise ValueError(f"names.{name}.members: no row {member!r}{nearest(member, self.names)}")
                if self.names[member].kind in ("ensemble", "scores"):
                    raise ValueError(
                        f"names.{name}.members: {member!r} is of the kind {self.names[member].kind!r}, which takes no "
                        "part"
                    )
        if not self.protocols or (self.rule in ("trie", VALIDATION) and "full" not in self.protocols):
            raise ValueError("protocols must contain 'full', the primary one (rules 'sum' and 'mean' can do without)")
        if self.temperature != VALIDATION and not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature} must be above 0 and finite")
        if not self.temperatures or not all(0 < value < math.inf for value in self.temperatures):
            raise ValueError(f"temperatures {self.temperatures} must be above 0 and finite, and at least one")
        if not all(math.isfinite(value) for value in (*self.pmi_weights, 0.0 if self.pmi == VALIDATION else self.pmi)):
            raise ValueError(f"pmi {self.pmi} and pmi_weights {self.pmi_weights} must be finite")
        for name in ("bootstrap", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 0")
        if self.pmi != 0 and self.rule != "trie":
            raise ValueError(f"pmi {self.pmi} belongs to the rule 'trie'")
        if self.ranks_to is not None and (self.ranks_to < 100 or self.rule != "trie" or self.pmi != 0):
            raise ValueError(
                f"ranks_to {self.ranks_to} must be at least 100 (for HR@100), and belongs to the rule 'trie' with pmi 0"
            )
        if self.beam is not None and (self.rule != "trie" or self.pmi != 0):
            raise ValueError(f"beam {self.beam} belongs to the rule 'trie' with pmi 0")
        if not self.pmi_weights:
            raise ValueError("pmi_weights is empty; give at least one")
        at_least_one(
            self,
            *("validation_users", "prompt_tokens", "node_chunk", "batch_users", "batch_tokens", "devices", "max_users"),
        )
        at_least_one(self, "seeds", "beam", "leak_probe")

    def _check_init(self, name: str, row: str) -> None:
        known = [other_row for other_row, method in self.names.items() if method.kind in MODEL_KINDS]
        if row not in known:
            raise ValueError(
                f"names.{name}.init: {row!r} is neither {TITLES!r} nor a row of a language "
                f"model{nearest(row, [TITLES, *known])}"
            )
        if self.names[row].step == VALIDATION:
            raise ValueError(f"names.{name}.init: row {row!r} is of the step {VALIDATION!r}; name a row of a step")
