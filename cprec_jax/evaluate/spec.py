"""`config.evaluate`: what is compared, on which users, by which rule."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cprec_jax.baselines.sequential_spec import SequentialSpec
from cprec_jax.spec import at_least_one, nearest

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
MODEL_KINDS = ("untrained", "checkpoint", "hf")  # language models
COUNTED = ("popularity", "popularity_decayed", "last_items", "markov", "item_knn", "graph")
Rule = Literal["trie", "sum", "mean"]
Unit = Literal["words", "characters"]
Weighting = Literal["tfidf", "bm25"]
TITLES = "titles"  # the value of `init` that needs no model
VALIDATION: Literal["validation"] = "validation"  # the value of keys that validation users choose


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """One row of the table.

    kind: `random` (closed form), `popularity` (training counts), `oracle` (the known distribution of a synthetic corpus), `untrained`
    (step 0 of the run), `checkpoint` (`step`, or the one nearest to `fraction` of the run, or with step "validation" the one with the
    lowest NLL on validation users; default the newest; with `path` of the run in that work directory, or of that run itself, by its
    tokenizer and template), `hf` (the Hugging Face directory or hub id `path`, with its own tokenizer), `scores` (a file `path` of another
    system's scores: columns user_id, item_id, score).
    Baselines that count (`baselines/counting.py`): `popularity_decayed`, `last_items`, `markov`, `item_knn`; their `fit`, and that of
    `popularity`, says on what: the training sequences, or (`history`) with what evaluated users did before their targets, as published
    leave-one-out figures are. `gru4rec` and `sasrec` are trained here, as `config.evaluate.sequential` says;
    with `init` their item embeddings start from titles: "titles" (TF-IDF, reduced), or the name of a row of a language model (its mean
    hidden states of each title). `text_knn` is similarity of
    titles, without any training (`config.evaluate.text_knn`). `graph`: transitions of one and two hops
    from the last two items, ranked by that similarity. `ensemble`: a log-linear one of the two or three rows `members`.
    """

    kind: Kind
    step: int | Literal["validation"] | None = None
    fraction: float | None = None
    path: str | None = None
    fit: Literal["train", "history"] = "train"
    members: tuple[str, ...] = ()
    init: str | None = None

    def __post_init__(self) -> None:
        if (self.kind == "ensemble") != bool(self.members) or (self.members and len(set(self.members)) not in (2, 3)):
            raise ValueError("members belongs to the kind 'ensemble', which needs the names of two or three rows")
        if len(set(self.members)) < len(self.members):
            raise ValueError(f"members {self.members}: a row is named twice")
        if self.init is not None and self.kind not in ("gru4rec", "sasrec"):
            raise ValueError("init belongs to the kinds 'gru4rec' and 'sasrec'")
        if self.fit != "train" and self.kind not in COUNTED:
            raise ValueError(f"fit belongs to the kinds {', '.join(COUNTED)}")
        if (self.kind in ("hf", "scores")) != (self.path is not None) and (self.kind != "checkpoint" or self.path == ""):
            raise ValueError("path belongs to the kinds 'hf' and 'scores', which need it, and to 'checkpoint'")
        if self.step is not None and self.fraction is not None:
            raise ValueError("give step or fraction, not both")
        if self.kind != "checkpoint" and (self.step, self.fraction) != (None, None):
            raise ValueError(f"step and fraction belong to the kind 'checkpoint', not to {self.kind!r}")


def results_folder(workdir: Path, split: str) -> Path:
    """Where the results of a split are: WORKDIR/results, of the validation split WORKDIR/results-valid, so that neither replaces the
    other."""
    return workdir / ("results" if split == "test" else f"results-{split}")


def parse_features(features: str) -> tuple[Unit, int, int]:
    """`words 1-2` -> words, 1, 2: n-grams of one and two words. `characters 3` has one length. Anything else is a `ValueError`."""
    found = re.fullmatch(r"(words|characters) ([1-9])(?:-([1-9]))?", features)
    if found is None or int(found[3] or found[2]) < int(found[2]):
        raise ValueError(f"features {features!r}: expected a unit and lengths of n-grams, such as 'words 1-2' or 'characters 3-5'")
    return ("words" if found[1] == "words" else "characters"), int(found[2]), int(found[3] or found[2])


@dataclass(frozen=True, kw_only=True)
class TextKNNSpec:
    """`config.evaluate.text_knn`: the grid of the kind `text_knn`; without validation users the first values are taken.

    features: n-grams of titles, such as `words 1-2` or `characters 3-5` (for scripts without spaces between words: `characters 1-2`).
    weightings: `tfidf` (cosine), `bm25`. step_weights, last_items: the newest `last_items` of a history count, each `step_weight`^age.
    own_items: where histories are ranked, whether items of the history are like themselves is tried, too. validation_users: of the set's
    validation users, a seeded choice.
    """

    features: tuple[str, ...] = ("words 1", "words 1-2", "characters 3-5")
    weightings: tuple[Weighting, ...] = ("tfidf", "bm25")
    step_weights: tuple[float, ...] = (0.8, 1.0, 0.65, 0.5)
    last_items: tuple[int, ...] = (50, 10, 5)
    own_items: bool = True
    validation_users: int = 2000

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
    """`config.evaluate.ensemble`, for rows of the kind `ensemble`. Weights are multiples of 1 / `parts`.

    temperatures: of the product; the one with the lowest NLL is taken. validation_users: of the set's validation users, a seeded choice;
    every member ranks them, too.
    """

    parts: int = 10
    temperatures: tuple[float, ...] = (0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0)
    validation_users: int = 2000

    def __post_init__(self) -> None:
        at_least_one(self, "parts", "validation_users")
        if not self.temperatures or not all(0 < each < math.inf for each in self.temperatures):
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
    """`names`: the results to make. `sets` None: all of the corpus. `max_users`: a seeded choice of users a set.

    rule: `trie` (exact over the catalogue), `sum` or `mean` (log-likelihood of the title's tokens), or "validation": the one with the
    highest mean reciprocal rank of validation targets among 99 uniform negatives, one for all sets and language models (see
    `rule_chooser`). temperature: a number, or "validation": the one of `temperatures` with the lowest NLL on the validation split, chosen a
    set (rule `trie` only). pmi: how much of the log-probability after an EMPTY history is taken off a title's (rule `trie`), or
    "validation": the one of `pmi_weights` with the lowest NLL, chosen together with the temperature (this ranks the whole catalogue for
    every validation user). validation_users: a seeded
    choice of users a set for all of this. ranks_to: None ranks the whole catalogue; a number of at least 100 finds so many best titles by
    branch and bound (exact, and several times faster on a trained model), the target's NLL and the sampled protocols exactly; a target
    beyond them counts as below all others, which only the MRR feels. beam: measure, beside that exact ranking, how much of the best 1, 10
    and 100 titles a beam of so many nodes a level finds (no rank comes from it; `config.generate.beam` serves by it). general_text: a
    held-out UTF-8 file; the perplexity of every language model on it shows what pre-training made it forget (`untrained` is before).
    leak_probe: of so many titles and users of each set, how many every language model continues verbatim (`evaluate/leak_probe.py`).
    mask_history: `auto` leaves items of the history out of the ranking where no user of the set ever repeats one, alike for every
    method; `always` everywhere (but no target), as published protocols do. node_chunk: skeleton nodes (or tokens of candidates) that go
    through the model at a time. batch_users, batch_tokens: at most so many users, and prompt tokens + nodes of all of them, a device and
    batch (None: what suits the device); these bound memory and change no result. devices: how many local devices share the users (None:
    all); the searches of ranks_to and beam take one. bootstrap: resamples for the intervals, 0 = none. seed: of the choice of users and
    the bootstrap. seeds: how many seeds 0, 1, ... of GRU4Rec and SASRec are trained and evaluated; so many runs the job `train` makes,
    too, unless `config.train.seeds` says otherwise, and checkpoints are those of all of them. Metrics are means over seeds;
    `launch.py compare` tests over seeds, too. sequential: sizes and grid of GRU4Rec and SASRec. text_knn: grid of the similarity of titles.
    ensemble: of the weights of ensembles.
    """

    names: Mapping[str, MethodSpec] = field(default_factory=_default_names)
    sets: tuple[str, ...] | None = None
    split: Literal["test", "valid"] = "test"
    protocols: tuple[str, ...] = ("full", "u20", "u100", "p20")
    rule: Rule | Literal["validation"] = "trie"
    temperature: float | Literal["validation"] = "validation"
    temperatures: tuple[float, ...] = (0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
    pmi: float | Literal["validation"] = 0.0
    pmi_weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    ranks_to: int | None = None
    beam: int | None = None
    general_text: str | None = None
    leak_probe: int | None = None
    max_users: int | None = None
    validation_users: int = 500
    prompt_tokens: int = 256
    node_chunk: int = 1024
    batch_users: int = 32
    batch_tokens: int | None = None
    devices: int | None = None
    mask_history: Literal["auto", "never", "always"] = "auto"
    bootstrap: int = 1000
    seed: int = 0
    seeds: int = 1
    sequential: SequentialSpec = field(default_factory=SequentialSpec)
    text_knn: TextKNNSpec = field(default_factory=TextKNNSpec)
    ensemble: EnsembleSpec = field(default_factory=EnsembleSpec)

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
        """The name on which validation chooses the rule of all language models: the first by the alphabet that is trained, else the first.

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
        for name, method in self.names.items():
            if method.init not in (None, TITLES):
                self._check_init(name, str(method.init))
            for member in method.members:
                if member not in self.names:
                    raise ValueError(f"names.{name}.members: no row {member!r}{nearest(member, self.names)}")
                if self.names[member].kind in ("ensemble", "scores"):
                    raise ValueError(f"names.{name}.members: {member!r} is of the kind {self.names[member].kind!r}, which takes no part")
        if not self.protocols or (self.rule in ("trie", VALIDATION) and "full" not in self.protocols):
            raise ValueError("protocols must contain 'full', the primary one (rules 'sum' and 'mean' can do without)")
        if self.temperature != VALIDATION and not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature} must be above 0 and finite")
        if not self.temperatures or not all(0 < each < math.inf for each in self.temperatures):
            raise ValueError(f"temperatures {self.temperatures} must be above 0 and finite, and at least one")
        if not all(math.isfinite(each) for each in (*self.pmi_weights, 0.0 if self.pmi == VALIDATION else self.pmi)):
            raise ValueError(f"pmi {self.pmi} and pmi_weights {self.pmi_weights} must be finite")
        for name in ("bootstrap", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 0")
        if self.pmi != 0 and self.rule != "trie":
            raise ValueError(f"pmi {self.pmi} belongs to the rule 'trie'")
        if self.ranks_to is not None and (self.ranks_to < 100 or self.rule != "trie" or self.pmi != 0):
            raise ValueError(f"ranks_to {self.ranks_to} must be at least 100 (for HR@100), and belongs to the rule 'trie' with pmi 0")
        if self.beam is not None and (self.rule != "trie" or self.pmi != 0):
            raise ValueError(f"beam {self.beam} belongs to the rule 'trie' with pmi 0")
        if not self.pmi_weights:
            raise ValueError("pmi_weights is empty; give at least one")
        at_least_one(self, *("validation_users", "prompt_tokens", "node_chunk", "batch_users", "batch_tokens", "devices", "max_users"))
        at_least_one(self, "seeds", "beam", "leak_probe")

    def _check_init(self, name: str, row: str) -> None:
        known = [other for other, method in self.names.items() if method.kind in MODEL_KINDS]
        if row not in known:
            raise ValueError(
                f"names.{name}.init: {row!r} is neither {TITLES!r} nor a row of a language model{nearest(row, [TITLES, *known])}"
            )
        if self.names[row].step == VALIDATION:
            raise ValueError(f"names.{name}.init: row {row!r} is of the step {VALIDATION!r}; name a row of a step")
