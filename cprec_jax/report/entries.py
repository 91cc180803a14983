"""The lines of a table of results before they are formatted: which there are, in what order, and which is best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cprec_jax.config.report import ReferenceRow
from cprec_jax.evaluate.metrics import random_ranker
from cprec_jax.evaluate.ranks_file import random_of_ranked
from cprec_jax.evaluate.results import ORACLE, RANDOM, Measured, Result, SetResult
from cprec_jax.report.set_facts import set_names, test_users
from cprec_jax.report.table import Mark, RowKind

PRIMARY = "full"
SHARE_OF = "hr@10"
SignificanceMarks = Mapping[tuple[str, str, str], str]  # (set, metric, method) -> what stands behind the figure


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a table of results before formatting."""

    name: str
    kind: RowKind
    measured: Measured
    source: str = ""


def ordered(results: Sequence[Result], order: Sequence[str]) -> list[Result]:
    """Results in the order of `order`; the others follow by kind of row, name: the oracle is always the last."""
    position = {name: index for index, name in enumerate(order)}
    return sorted(results, key=lambda r: (r.kind == ORACLE, position.get(r.name, len(position)), r.name))


def with_random(results: Sequence[Result], manifest: Mapping[str, Any]) -> list[Result]:
    """The results, with the closed-form random row in front where no result of that kind covers a set."""
    covered = {name for result in results if result.kind == RANDOM for name in result.sets}
    sets = {}
    for name in set_names(results, manifest):
        sizes = {PRIMARY: manifest["sets"].get(name, {}).get("n_items", 0)}
        sizes |= {
            protocol: sampled.get("test", 0)
            for protocol, sampled in manifest.get("candidates", {}).get(name, {}).items()
        }
        measured = {protocol for result in results if name in result.sets for protocol in result.sets[name].protocols}
        users = test_users(name, results)
        rows = {
            p: Measured(users=users, values=_random(name, p, n, results))
            for p, n in sizes.items()
            if n and p in measured
        }
        if name not in covered and rows:
            sets[name] = SetResult(users=users, protocols=rows)
    if not sets:
        return list(results)
    taken = {result.name for result in results}
    label = RANDOM if RANDOM not in taken else f"{RANDOM} (closed form)"
    return [Result(name=label, kind=RANDOM, sets=sets, scoring_rule="closed form"), *results]


def _random(set_name: str, protocol: str, n: int, results: Sequence[Result]) -> dict[str, float]:
    """The closed form: of the n items, but without the history where that was not ranked, which a result's ranks
    say."""
    values = random_ranker(n)
    if protocol != PRIMARY:
        del values["nll"]  # it is over the whole catalogue, as that of all methods
    else:
        ranked = (random_of_ranked(result, set_name, protocol) for result in results if set_name in result.sets)
        values |= next(filter(None, ranked), {})
    return values


def entries(set_name: str, protocol: str, results: Sequence[Result], slice_name: str = "") -> list[Entry]:
    """One entry per result that has the set, protocol and slice."""
    rows = []
    for result in results:
        measured = measured_of(result, set_name, protocol, slice_name)
        if measured is not None:
            rows.append(Entry(name=result.name, kind=row_kind(result), measured=measured))
    return rows


def measured_of(result: Result, set_name: str, protocol: str, slice_name: str = "") -> Measured | None:
    """The metrics of a set, or of one of its slices, under a protocol; None where the result has none."""
    if set_name not in result.sets:
        return None
    of_set = result.sets[set_name]
    return of_set.slice_of(slice_name, protocol) if slice_name else of_set.protocols.get(protocol)


def row_kind(result: Result) -> RowKind:
    """The oracle is an upper bound, everything else a method."""
    return "bound" if result.kind == ORACLE else "method"


def reference_entries(set_name: str, rows: Sequence[ReferenceRow]) -> list[Entry]:
    return [
        Entry(
            name=row.method,
            kind="reference",
            measured=Measured(users=0, values=row.values),
            source=f"taken from elsewhere, not measured here: {row.source}; protocol: {row.protocol}",
        )
        for row in rows
        if row.set_name == set_name
    ]


def marks(metric: str, rows: Sequence[Entry]) -> list[Mark]:
    """Best and second of a column among measured methods; the oracle and references take no part.

    Values are compared as printed: what reads alike is marked alike. Ranks are those of a competition, so two that
    share the best leave no second.
    """
    sign = -1 if metric == "nll" else 1
    values = [
        sign * float(number(metric, row.measured.values[metric])) if _competes(metric, row) else None for row in rows
    ]
    present = [value for value in values if value is not None]
    result: list[Mark] = []
    for value in values:
        better = sum(rival > value for rival in present) if value is not None else 2
        result.append("best" if better == 0 else "second" if better == 1 else "")
    return result if len(present) > 1 else [""] * len(values)


def _competes(metric: str, row: Entry) -> bool:
    return row.kind == "method" and metric in row.measured.values


def share_of_oracle(row: Entry, rows: Sequence[Entry]) -> float | None:
    """HR@10 as a fraction of the best possible one, where an oracle is known."""
    oracle = next((r.measured.values.get(SHARE_OF) for r in rows if r.kind == "bound"), None)
    value = row.measured.values.get(SHARE_OF)
    return value / oracle if oracle and value is not None and row.kind == "method" else None


def number(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "nll" else f"{value:.4f}"
