"""Significance marks of the report's tables: is the best of a column better than the second?"""

import dataclasses
from collections.abc import Sequence

from cprec_jax.evaluate.ranks_file import has_ranks, read_user_metrics
from cprec_jax.evaluate.results import ORACLE, Result
from cprec_jax.evaluate.significance import UserMetrics, compare, holm, on_common_users, sets_masked_otherwise
from cprec_jax.report.entries import PRIMARY, SignificanceMarks
from cprec_jax.report.tables import MAIN

DAGGER, ALPHA, SAMPLES = "†", 0.05, 2000


def significance_marks(results: Sequence[Result], sets: Sequence[str]) -> SignificanceMarks:
    """† for the best method of a set and metric whose lead over the second passes the paired randomisation test (Holm
    over the sets).

    Results without ranks of single users (`ranks.parquet`) take no part, and leaders of which only one ranked the
    history get no mark.
    """
    metrics = {
        result.name: ranks for result in results if result.kind != ORACLE and (ranks := _ranks(result)) is not None
    }
    marks: dict[tuple[str, str, str], str] = {}
    for metric, _ in MAIN:
        leads = []
        for name in sets:
            with_ranks = [method for method, ranks in metrics.items() if name in ranks.users]
            means = {
                result.name: result.sets[name].protocols[PRIMARY].values[metric]
                for result in results
                if result.name in with_ranks
                and name in result.sets
                and metric in result.sets[name].protocols[PRIMARY].values
            }
            leaders = sorted(means, key=lambda method: means[method], reverse=metric != "nll")[:2]
            if len(leaders) == 2 and name not in sets_masked_otherwise(*(metrics[method] for method in leaders)):
                best, second = on_common_users([_only(metrics[method], name) for method in leaders])
                leads += [(name, leaders[0], row.p) for row in compare(best, [second], (metric,), SAMPLES)]
        for (name, method, _), p in zip(leads, holm([p for *_, p in leads]), strict=True):
            if p < ALPHA:
                marks[name, metric, method] = DAGGER
    return marks


def _only(ranks: UserMetrics, name: str) -> UserMetrics:
    """Of one set."""
    return dataclasses.replace(ranks, users={name: ranks.users[name]}, values={name: ranks.values[name]})


def _ranks(result: Result) -> UserMetrics | None:
    if result.folder is None or not has_ranks(result):
        return None
    primary = any(PRIMARY in of_set.protocols for of_set in result.sets.values())
    return read_user_metrics(result.folder, PRIMARY) if primary else None
