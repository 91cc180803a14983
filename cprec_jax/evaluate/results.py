"""results/NAME: who writes it, and who reads it. Damaged files are named, unknown keys are ignored."""

import math
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
from cprec_jax.workdir import RESULTS_FILE, result_files, results_directory

RANKS_FILE, SLICES_FILE, EXAMPLES_FILE = "ranks.parquet", "slices.parquet", "examples.json"  # beside results.json
ORACLE, RANDOM, UNTRAINED, POPULARITY = (
    "oracle",
    "random",
    "untrained",
    "popularity",
)  # kinds that are treated on their own


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Metrics of one set under one protocol (or of one slice of it). Keys as in results.json: `hr@10`, `ndcg@10`,
    `mrr`, `nll`."""

    users: int
    values: dict[str, float]
    ci95: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """One method on one set: by protocol, and by slice and protocol; `facts` are the other numbers and texts of the
    set."""

    users: int
    protocols: dict[str, Measured]
    slices: dict[str, dict[str, Measured]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def slice_of(self, name: str, protocol: str) -> Measured | None:
        return self.slices.get(name, {}).get(protocol)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One results.json. `step` and `run` are there for results of checkpoints, `members`
    (kinds by name) for ensembles."""

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
        found = {name: one.facts.get("pairs_without_score") for name, one in self.sets.items()}
        return {name: pairs for name, pairs in found.items() if isinstance(pairs, int) and pairs > 0}


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
        of_seed[one.name].table(one, seed)
        for one in data
        for seed, of_seed in zip(record["seeds"], collected, strict=True)
    ]
    examples = [user for one in data if not (first := collected[0][one.name]).flat for user in first.examples]
    with artefact.new_directory(directory) as made:
        artefact.write_json(made / RESULTS_FILE, record)
        pq.write_table(pa.concat_tables(ranks), made / RANKS_FILE)
        pq.write_table(pa.concat_tables(map(slice_table, data)), made / SLICES_FILE)
        artefact.write_json(
            made / EXAMPLES_FILE, {"users": examples}
        )  # of no flat scores: which ten of equals come first is an accident
        # How long it took, and where, is no part of what was found.
        record_hash = artefact.fingerprint(
            {key: value for key, value in record.items() if key not in ("environment", "cost")}
        )
        content = [record_hash, *(artefact.file_sha256(made / name) for name in (RANKS_FILE, SLICES_FILE))]
        artefact.write_manifest(made, made_from, {"results_hash": artefact.fingerprint(content)})


def read_results(workdir: Path, split: str = "test") -> list[Result]:
    """All results of a split, by folder name. None at all, a damaged one, or two of one name: `UserError`."""
    paths = result_files(workdir, split)
    if not paths:
        other = next((other for other in ("test", "valid") if result_files(workdir, other)), None)
        there = "" if other is None else f", or set config.evaluate.split to {other!r}, of which there are results"
        raise UserError(
            f"{results_directory(workdir, split)}: holds no results; run `launch.py evaluate` with the same --workdir "
            f"first{there}"
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
        raw = _mapping(read_json(path, "evaluate"), "the file")
        sets = {name: _set_result(value, f"sets.{name}") for name, value in _mapping(raw.get("sets"), "sets").items()}
        step = raw.get("step")
        return Result(
            name=_text(raw.get("name"), "name"),
            kind=_text(raw.get("kind"), "kind"),
            sets=sets,
            corpus_hash=_text(raw.get("corpus_hash"), "corpus_hash"),
            protocol_version=raw.get("protocol_version"),
            split=str(raw.get("split") or "test"),
            scoring_rule=raw.get("scoring_rule"),
            seeds=raw.get("seeds"),
            step=None if step is None else int(_number(step, "step")),
            run=str(raw.get("run") or ""),
            members={str(row): str(kind) for row, kind in _mapping(raw.get("members") or {}, "members").items()},
            cost=dict(raw["cost"]) if isinstance(raw.get("cost"), Mapping) else {},
            general_text=_mean_over_seeds(raw.get("general_text")),
            folder=path.parent,
        )
    except _Damaged as error:
        raise UserError(f"{path}: damaged ({error}); delete {path.parent} and run `launch.py evaluate` again") from None


def _mean_over_seeds(value: Any) -> dict[str, Any]:
    """A mapping, or of a list of them (one a seed) the means of its numbers; what all have alike stays as it is. Empty
    otherwise."""
    seeds = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, Mapping)]
    mean: dict[str, Any] = dict(seeds[0]) if seeds else {}
    for key, first in mean.items():
        if any(one.get(key) != first for one in seeds) and isinstance(first, int | float):
            mean[key] = sum(_number(one.get(key), f"general_text.{key}") for one in seeds) / len(seeds)
    return mean


class _Damaged(Exception):
    pass


def _set_result(value: Any, where: str) -> SetResult:
    value = _mapping(value, where)
    users = int(_number(value.get("users"), f"{where}.users"))
    protocols = {
        name: _measured(numbers, users, f"{where}.protocols.{name}")
        for name, numbers in _mapping(value.get("protocols"), f"{where}.protocols").items()
    }
    slices: dict[str, dict[str, Measured]] = {}
    for name, part in _mapping(value.get("slices", {}), f"{where}.slices").items():
        slices[name] = _slice(_mapping(part, f"{where}.slices.{name}"), f"{where}.slices.{name}")
    facts = {key: fact for key, fact in value.items() if isinstance(fact, bool | int | float | str) and key != "users"}
    if isinstance(probe := value.get("leak_probe"), Mapping):
        facts |= {f"leak_probe {key}": _number(number, f"{where}.leak_probe.{key}") for key, number in probe.items()}
    if isinstance(scored := value.get("scored_candidates_of"), list):
        facts["scored_candidates_of"] = ", ".join(map(str, scored))
    for protocol, measured in [*protocols.items(), *(pair for part in slices.values() for pair in part.items())]:
        for metric in only_bounds(value, protocol):  # not to be compared with, or marked among, exact ones
            measured.values.pop(metric, None)
            measured.ci95.pop(metric, None)
    return SetResult(users=users, protocols=protocols, slices=slices, facts=facts)


def _slice(part: Mapping[str, Any], where: str) -> dict[str, Measured]:
    """By protocol. Metrics that stand directly in a slice are those of the primary protocol, `full`."""
    users = int(_number(part.get("users", 0), f"{where}.users"))
    nested = part.get(
        "protocols", {key: value for key, value in part.items() if isinstance(value, Mapping) and key != "ci95"}
    )
    if nested:
        return {name: _measured(numbers, users, f"{where}.{name}") for name, numbers in _mapping(nested, where).items()}
    return {"full": _measured(part, users, where)}


def _measured(value: Any, users: int, where: str) -> Measured:
    value = _mapping(value, where)
    intervals = {}
    for key, pair in _mapping(value.get("ci95") or {}, f"{where}.ci95").items():
        if pair is None:
            continue
        if not isinstance(pair, list) or len(pair) != 2:
            raise _Damaged(f"{where}.ci95.{key} is not a pair of numbers")
        intervals[key] = (_number(pair[0], f"{where}.ci95.{key}"), _number(pair[1], f"{where}.ci95.{key}"))
    numbers = {
        key: _number(number, f"{where}.{key}")
        for key, number in value.items()
        if key != "users" and isinstance(number, int | float) and not isinstance(number, bool)
    }
    return Measured(users=int(_number(value.get("users", users), f"{where}.users")), values=numbers, ci95=intervals)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Damaged(f"{where} is {'missing' if value is None else 'no mapping'}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _Damaged(f"{where} is {'missing' if value is None else 'no text'}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Damaged(f"{where} is {'missing' if value is None else 'no number'}")
    if not math.isfinite(value):
        raise _Damaged(f"{where} is {value}")
    return float(value)
