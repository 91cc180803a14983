"""Reads the ranks of single users and the slices, `results/NAME/ranks.parquet` and `slices.parquet`: by column, or as
metrics that can be paired."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cprec_jax.config.build import nearest
from cprec_jax.config.evaluate import UNSEEDED_KINDS
from cprec_jax.errors import UserError, one_line
from cprec_jax.evaluate.metrics import only_bounds, per_user, random_ranker
from cprec_jax.evaluate.results import ORACLE, RANDOM, Result, read_result
from cprec_jax.evaluate.significance import UserMetrics
from cprec_jax.workdir import RANKS_FILE, RESULTS_FILE, SLICES_FILE

COLUMNS = ("set", "user", "n_better", "n_tied", "nll", "seed")


def read_ranks(directory: Path, protocol: str) -> pa.Table:
    """The rows of one protocol in WORKDIR/results/NAME/ranks.parquet. Absent or damaged: `UserError`."""
    path = directory / RANKS_FILE
    try:
        table = pq.read_table(path, partitioning=None, filters=[("protocol", "=", protocol)])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)[:120]}); evaluate {directory.name} again") from error
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise UserError(f"{path}: no column {missing[0]!r}; evaluate {directory.name} again")
    return table


def has_ranks(result: Result) -> bool:
    """Whether a result has ranks of single users. The closed form of random has none."""
    return result.folder is not None and (result.folder / RANKS_FILE).is_file()


def has_protocol(directory: Path, protocol: str) -> bool:
    """Whether a result has ranks under a protocol."""
    return len(read_ranks(directory, protocol)) > 0


def random_of_ranked(result: Result, set_name: str, protocol: str) -> dict[str, float] | None:
    """Expected metrics of a random ranking of the candidates that a result's users had (without a masked history);
    None where its ranks do not say how many those were. The NLL is left out: it is over the whole catalogue."""
    if result.folder is None or not has_ranks(result):
        return None
    table = read_ranks(result.folder, protocol)
    if "n_candidates" not in table.column_names:
        return None
    of_set = np.asarray(table["set"].to_pylist()) == set_name
    numbers, counts = np.unique(table["n_candidates"].to_numpy()[of_set], return_counts=True)
    forms = [random_ranker(n) for n in numbers.tolist()]
    if not forms:
        return None
    return {
        metric: float(np.average([form[metric] for form in forms], weights=counts))
        for metric in forms[0]
        if metric != "nll"
    }


def read_slice(directory: Path, name: str) -> pa.Table:
    """`set` and `user` of one slice in WORKDIR/results/NAME/slices.parquet. Absent, damaged, or no such slice:
    `UserError`."""
    path = directory / SLICES_FILE
    try:
        table = pq.read_table(path)
        known = table["slice"].unique().to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)[:120]}); evaluate {directory.name} again") from error
    if name not in known:
        raise UserError(f"--slice={name}: no slice of {path}{nearest(name, known)}")
    return table.filter(pc.equal(table["slice"], name)).select(["set", "user"])


def read_user_metrics(directory: Path, protocol: str = "full", slice_name: str | None = None) -> UserMetrics:
    """Per-user metrics of WORKDIR/results/NAME, but those that are only bounds; with `slice_name` of the users of that
    slice alone. Damaged, or no such protocol or slice in it: `UserError`."""
    result = read_result(directory / RESULTS_FILE)
    table = read_ranks(directory, protocol)
    if not len(table):
        raise UserError(f"{directory}: has no ranks under protocol {protocol!r}; evaluate it with that protocol")
    if slice_name is not None:
        table = table.join(read_slice(directory, slice_name), ["set", "user"], join_type="left semi")
    names = np.asarray(table["set"].to_pylist())
    columns = {name: table[name].to_numpy() for name in COLUMNS[1:]}
    facts = {name: of_set.facts for name, of_set in result.sets.items()}
    users: dict[str, np.ndarray] = {}
    values: dict[str, dict[str, np.ndarray]] = {}
    for set_name in dict.fromkeys(names.tolist()):
        of_set = {key: column[names == set_name] for key, column in columns.items()}
        order = np.lexsort((of_set["user"], of_set["seed"]))
        by_seed = np.split(of_set["user"][order], np.flatnonzero(np.diff(of_set["seed"][order])) + 1)
        if any(not np.array_equal(user, by_seed[0]) for user in by_seed):
            raise UserError(
                f"{directory / RANKS_FILE}: set {set_name}: seeds were evaluated on different users; evaluate it again"
            )
        shape = (len(by_seed), len(by_seed[0]))
        ranked = per_user(of_set["n_better"][order], of_set["n_tied"][order])
        if (
            protocol == "full" and not np.isnan(of_set["nll"]).any()
        ):  # it is over the whole catalogue, whatever the candidates
            ranked["nll"] = of_set["nll"][order].astype(np.float64)
        for metric in only_bounds(facts.get(set_name, {}), protocol):
            del ranked[metric]
        users[set_name] = by_seed[0]
        values[set_name] = {metric: value.reshape(shape) for metric, value in ranked.items()}
    return UserMetrics(
        name=result.name,
        corpus_hash=result.corpus_hash,
        deterministic=all(kind in UNSEEDED_KINDS for kind in (result.members or {"": result.kind}).values()),
        users=users,
        values=values,
        split=result.split,
        protocol_version=result.protocol_version,
        masked={
            name: bool(fact["history_masked"])
            for name, fact in facts.items()
            if protocol == "full" and "history_masked" in fact
        },
        rule=result.rule,
        oracle=result.kind == ORACLE,
        expected=result.kind == RANDOM,
        without_score=result.without_score,
        too_small=frozenset(name for name, fact in facts.items() if fact.get("too_small")),
    )
