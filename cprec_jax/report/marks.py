"""Significance signs of the report's tables: is the best of a column better than the second?"""

import dataclasses
from collections.abc import Sequence

from cprec_jax.evaluate.ranks_file import RANKS_FILE, read_user_metrics
from cprec_jax.evaluate.results import ORACLE, Result
from cprec_jax.evaluate.significance import UserMetrics, compare, holm, on_common_users, other_masks
from cprec_jax.report.tables import MAIN, PRIMARY, Signs

SIGN, ALPHA, SAMPLES = "†", 0.05, 2000


def best_signs(results: Sequence[Result], sets: Sequence[str]) -> Signs:
    """† for the best method of a set and metric whose lead over the second passes the paired randomisation test (Holm
    over the sets).

    Results without ranks of single users (`ranks.parquet`) take no part, and leaders of which only one ranked the
    history get no sign.
    """
    metrics = {
        result.name: ranks for result in results if result.kind != ORACLE and (ranks := _ranks(result)) is not None
    }
    signs: dict[tuple[str, str, str], str] = {}
    for metric, _ in MAIN:
        found = []
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
            if len(leaders) == 2 and name not in other_masks(*(metrics[method] for method in leaders)):
                best, second = on_common_users([_only(metrics[method], name) for method in leaders])
                found += [(name, leaders[0], row.p) for row in compare(best, [second], (metric,), SAMPLES)]
        for (name, method, _), p in zip(found, holm([p for *_, p in found]), strict=True):
            if p < ALPHA:
                signs[name, metric, method] = SIGN
    return signs


def _only(ranks: UserMetrics, name: str) -> UserMetrics:
    """Of one set."""
    return dataclasses.replace(ranks, users={name: ranks.users[name]}, values={name: ranks.values[name]})


def _ranks(result: Result) -> UserMetrics | None:
    if result.folder is None or not (result.folder / RANKS_FILE).is_file():
        return None
    primary = any(PRIMARY in one.protocols for one in result.sets.values())
    return read_user_metrics(result.folder, PRIMARY) if primary else None
