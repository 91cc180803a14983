"""The one writer and reader of results/NAME: results.json and the examples; `ranks_file` reads the ranks. Damaged files
are named, unknown keys are ignored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cprec_jax import artefact
from cprec_jax.artefact import read_json
from cprec_jax.config.evaluate import MODEL_KINDS
from cprec_jax.errors import UserError
from cprec_jax.evaluate.collect import Collected, slice_table
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.metrics import only_bounds
from cprec_jax.json_object import Damaged, items, mapping, number, text
from cprec_jax.workdir import (
    EXAMPLES_FILE,
    RANKS_FILE,
    RESULTS_FILE,
    SLICES_FILE,
    result_files,
    results_directory,
)

EXAMPLE_KEYS = ("history", "target", "rank", "probability", "top")
ORACLE, RANDOM, UNTRAINED, POPULARITY = "oracle", "random", "untrained", "popularity"  # kinds with rules of their own


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Metrics of one set under one protocol (or of one slice of it). Keys as in results.json: `hr@10`, `ndcg@10`,
    `mrr`, `nll`."""

    users: int
    values: dict[str, float]
    ci95: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """One method on one set: by protocol, and by slice and protocol. facts: the other numbers and texts of the set.
    entry: all that results.json says of the set."""

    users: int
    protocols: dict[str, Measured]
    slices: dict[str, dict[str, Measured]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    entry: Mapping[str, Any] = field(default_factory=dict)

    def slice_of(self, name: str, protocol: str) -> Measured | None:
        return self.slices.get(name, {}).get(protocol)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One results.json. Results of checkpoints have `step` and `run`, ensembles have `members` (kinds by name)."""

    name: str
    kind: str
    sets: dict[str, SetResult]
    corpus_hash: str = ""
    protocol_version: Any = None
    split: str = "test"
    scoring_rule: Any = None
    seeds: Any = None
    step: int | None = None
    run: str = ""
    members: dict[str, str] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    general_text: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def rule(self) -> str:
        """How a language model scored titles (several, where its seeds did otherwise); empty for other methods."""
        if self.kind not in MODEL_KINDS or not self.scoring_rule:
            return ""
        return (
            self.scoring_rule
            if isinstance(self.scoring_rule, str)
            else " and ".join(dict.fromkeys(map(str, self.scoring_rule)))
        )

    @property
    def without_score(self) -> dict[str, int]:
        """By set, how many pairs of user and item a file of scores left out; sets where it left out none are
        missing."""
        pairs_by_set = {name: of_set.facts.get("pairs_without_score") for name, of_set in self.sets.items()}
        return {name: pairs for name, pairs in pairs_by_set.items() if isinstance(pairs, int) and pairs > 0}


def without_score_note(name: str, set_name: str, pairs: int) -> str:
    return f"{set_name}: {name} has no score for {pairs:,} pairs of user and item of the catalogue; they count as last"


def write_result(
    directory: Path,
    record: Mapping[str, Any],
    data: Sequence[EvalSet],
    collected: Sequence[Mapping[str, Collected]],
    made_from: Mapping[str, Any],
) -> None:
    """Write a result, whole or not at all.

    Args:
      record: results.json.
      data: the sets.
      collected: what was collected, by seed and set.
      made_from: for its manifest.
    """
    ranks = [
        of_seed[eval_set.name].table(eval_set, seed)
        for eval_set in data
        for seed, of_seed in zip(record["seeds"], collected, strict=True)
    ]
    # Not of flat scores: which ten of equals come first is an accident.
    first_seed = [collected[0][eval_set.name] for eval_set in data]
    examples = [user for of_set in first_seed if not of_set.flat for user in of_set.examples]
    with artefact.new_directory(directory) as target:
        artefact.write_json(target / RESULTS_FILE, record)
        pq.write_table(pa.concat_tables(ranks), target / RANKS_FILE)
        pq.write_table(pa.concat_tables(map(slice_table, data)), target / SLICES_FILE)
        artefact.write_json(target / EXAMPLES_FILE, {"users": examples})
        # How long it took, and where, is no part of what was found.
        record_hash = artefact.fingerprint(
            {key: value for key, value in record.items() if key not in ("environment", "cost")}
        )
        content = [record_hash, *(artefact.file_sha256(target / name) for name in (RANKS_FILE, SLICES_FILE))]
        artefact.write_manifest(target, made_from, {"results_hash": artefact.fingerprint(content)})


def read_results(workdir: Path, split: str = "test") -> list[Result]:
    """All results of a split, by folder name. None at all, a damaged one, or two of one name: `UserError`."""
    paths = result_files(workdir, split)
    if not paths:
        with_results = next((name for name in ("test", "valid") if result_files(workdir, name)), None)
        remedy = (
            "" if with_results is None else f", or set config.evaluate.split to {with_results!r}, which has results"
        )
        raise UserError(
            f"{results_directory(workdir, split)}: holds no results; run `launch.py evaluate` with the same --workdir "
            f"first{remedy}"
        )
    results = [read_result(path) for path in paths]
    names: dict[str, Path] = {}
    for path, result in zip(paths, results, strict=True):
        if result.name in names:
            raise UserError(
                f"{path}: has the same name {result.name!r} as {names[result.name]}; delete one of the two folders"
            )
        names[result.name] = path
    return results


def read_result(path: Path) -> Result:
    """One results.json, checked; what is missing or of the wrong kind is a `UserError` that names file and key."""
    try:
        raw = mapping(read_json(path, "evaluate"), "the file")
        sets = {name: _set_result(value, f"sets.{name}") for name, value in mapping(raw.get("sets"), "sets").items()}
        step = raw.get("step")
        return Result(
            name=text(raw.get("name"), "name"),
            kind=text(raw.get("kind"), "kind"),
            sets=sets,
            corpus_hash=text(raw.get("corpus_hash"), "corpus_hash"),
            protocol_version=raw.get("protocol_version"),
            split=str(raw.get("split") or "test"),
            scoring_rule=raw.get("scoring_rule"),
            seeds=raw.get("seeds"),
            step=None if step is None else int(number(step, "step")),
            run=str(raw.get("run") or ""),
            members={str(row): str(kind) for row, kind in mapping(raw.get("members") or {}, "members").items()},
            cost=dict(raw["cost"]) if isinstance(raw.get("cost"), Mapping) else {},
            general_text=_mean_over_seeds(raw.get("general_text")),
            environment=dict(mapping(raw.get("environment") or {}, "environment")),
            folder=path.parent,
        )
    except Damaged as error:
        raise UserError(f"{path}: damaged ({error}); delete {path.parent} and run `launch.py evaluate` again") from None


def read_examples(result: Result) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Set -> user -> example, of the users that a result kept with titles; empty where it kept none. Damaged:
    `UserError`."""
    path = None if result.folder is None else result.folder / EXAMPLES_FILE
    if path is None or not path.is_file():
        return {}
    try:
        by_set: dict[str, dict[str, Mapping[str, Any]]] = {}
        for example in items(mapping(read_json(path, "evaluate"), "the file").get("users"), "users"):
            for key in ("set", "user", *EXAMPLE_KEYS):
                if key not in mapping(example, "users"):
                    raise Damaged(f"users: {key} is missing")
            kept = {key: example[key] for key in EXAMPLE_KEYS}
            by_set.setdefault(str(example["set"]), {})[str(example["user"])] = kept
        return by_set
    except Damaged as error:
        raise UserError(f"{path}: damaged ({error}); delete {path.parent} and run `launch.py evaluate` again") from None


def _mean_over_seeds(value: Any) -> dict[str, Any]:
    """`value` where it is a mapping. Of a list of mappings, one per seed: the means of the numbers that differ. Of
    anything else: empty."""
    seeds = [of_seed for of_seed in (value if isinstance(value, list) else [value]) if isinstance(of_seed, Mapping)]
    mean: dict[str, Any] = dict(seeds[0]) if seeds else {}
    for key, first in mean.items():
        if any(of_seed.get(key) != first for of_seed in seeds) and isinstance(first, int | float):
            mean[key] = sum(number(of_seed.get(key), f"general_text.{key}") for of_seed in seeds) / len(seeds)
    return mean


def _set_result(value: Any, where: str) -> SetResult:
    value = mapping(value, where)
    users = int(number(value.get("users"), f"{where}.users"))
    protocols = {
        name: _measured(numbers, users, f"{where}.protocols.{name}")
        for name, numbers in mapping(value.get("protocols"), f"{where}.protocols").items()
    }
    slices: dict[str, dict[str, Measured]] = {}
    for name, part in mapping(value.get("slices", {}), f"{where}.slices").items():
        slices[name] = _slice(mapping(part, f"{where}.slices.{name}"), f"{where}.slices.{name}")
    facts = {key: fact for key, fact in value.items() if isinstance(fact, bool | int | float | str) and key != "users"}
    if isinstance(probe := value.get("leak_probe"), Mapping):
        facts |= {
            f"leak_probe {key}": number(fact, f"{where}.leak_probe.{key}")
            for key, fact in probe.items()
            if fact is not None
        }
    if isinstance(scored := value.get("scored_candidates_of"), list):
        facts["scored_candidates_of"] = ", ".join(map(str, scored))
    for protocol, measured in [*protocols.items(), *(pair for part in slices.values() for pair in part.items())]:
        for metric in only_bounds(value, protocol):  # not to be compared with, or marked among, exact ones
            measured.values.pop(metric, None)
            measured.ci95.pop(metric, None)
    return SetResult(users=users, protocols=protocols, slices=slices, facts=facts, entry=value)


def _slice(part: Mapping[str, Any], where: str) -> dict[str, Measured]:
    """By protocol. Metrics that stand directly in a slice are those of the primary protocol, `full`."""
    users = int(number(part.get("users", 0), f"{where}.users"))
    nested = part.get(
        "protocols", {key: value for key, value in part.items() if isinstance(value, Mapping) and key != "ci95"}
    )
    if nested:
        return {name: _measured(numbers, users, f"{where}.{name}") for name, numbers in mapping(nested, where).items()}
    return {"full": _measured(part, users, where)}


def _measured(value: Any, users: int, where: str) -> Measured:
    value = mapping(value, where)
    intervals = {}
    for key, pair in mapping(value.get("ci95") or {}, f"{where}.ci95").items():
        if pair is None:
            continue
        if not isinstance(pair, list) or len(pair) != 2:
            raise Damaged(f"{where}.ci95.{key} is not a pair of numbers")
        intervals[key] = (number(pair[0], f"{where}.ci95.{key}"), number(pair[1], f"{where}.ci95.{key}"))
    numbers = {
        key: number(figure, f"{where}.{key}")
        for key, figure in value.items()
        if key != "users" and isinstance(figure, int | float) and not isinstance(figure, bool)
    }
    return Measured(users=int(number(value.get("users", users), f"{where}.users")), values=numbers, ci95=intervals)
