"""Tables of results as data: what stands in which cell and how it is marked. Rendering is elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cprec_jax.config.report import ReferenceRow
from cprec_jax.corpus import SMALL_SET
from cprec_jax.evaluate.metrics import random_ranker
from cprec_jax.evaluate.ranks_file import random_of_ranked
from cprec_jax.evaluate.results import ORACLE, RANDOM, Measured, Result, SetResult

SMALL_SIGN = "‡"
NOTHING = "–"
MAIN = (("hr@10", "HR@10"), ("ndcg@10", "NDCG@10"), ("hr@100", "HR@100"), ("mrr", "MRR"), ("nll", "NLL"))
OVERVIEW = (("hr@10", "HR@10"), ("ndcg@10", "NDCG@10"))
SAMPLED = (("hr@1", "HR@1"), ("hr@5", "HR@5"), ("ndcg@5", "NDCG@5"), ("hr@10", "HR@10"), ("mrr", "MRR"))
SLICED = (("hr@10", "HR@10"), ("hr@100", "HR@100"), ("nll", "NLL"))
SLICE_GROUPS = (  # a table each; what is in none follows
    ("by kind of target", ("warm", "cold", "never seen", "untied")),
    ("known transitions", ("memorised", "generalised")),
    ("by overlap of titles", ("overlap low", "overlap middle", "overlap high")),
)
FACTS = (
    ("coverage@10", "Coverage@10"),
    ("popularity_percentile@10", "Popularity of top 10"),
    ("score_length_correlation", "With title length"),
    ("temperature", "Temperature"),
)
PRIMARY = "full"
SHARE_OF = "hr@10"

Signs = Mapping[tuple[str, str, str], str]  # (set, metric, method) -> what stands behind the figure
Mark = Literal["", "best", "second"]
RowKind = Literal["method", "bound", "reference"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Printed text, its mark, and a 95 % interval as text (empty: none)."""

    text: str
    mark: Mark = ""
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """`group` is a heading over several columns."""

    name: str
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    cells: tuple[Cell, ...]
    kind: RowKind = "method"


@dataclass(frozen=True, kw_only=True)
class Table:
    """The first `text_columns` columns hold words, the others figures. Nothing in it is escaped yet."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    subtitle: str = ""
    warning: str = ""
    notes: tuple[str, ...] = ()
    text_columns: int = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a table of results before formatting."""

    name: str
    kind: RowKind
    measured: Measured
    source: str = ""


def ordered(results: Sequence[Result], order: Sequence[str]) -> list[Result]:
    """Results in the order of `order`; the others follow by kind of row, name: the oracle is always the last."""
    place = {name: index for index, name in enumerate(order)}
    return sorted(results, key=lambda r: (r.kind == ORACLE, place.get(r.name, len(place)), r.name))


def set_names(results: Sequence[Result], manifest: Mapping[str, Any]) -> list[str]:
    """Sets that were evaluated, in the order of the corpus."""
    found = {name for result in results for name in result.sets}
    known = [name for name in manifest["sets"] if name in found]
    return known + sorted(found - set(known))


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
        values |= next((found for found in ranked if found), {})
    return values


def test_users(set_name: str, results: Sequence[Result]) -> int:
    return max((result.sets[set_name].users for result in results if set_name in result.sets), default=0)


def entries(set_name: str, protocol: str, results: Sequence[Result], slice_name: str = "") -> list[Entry]:
    """One entry for every result that has the set, protocol and slice."""
    found = []
    for result in results:
        here = result.sets.get(set_name)
        measured = (
            None
            if here is None
            else here.slice_of(slice_name, protocol)
            if slice_name
            else here.protocols.get(protocol)
        )
        if measured is not None:
            found.append(
                Entry(name=result.name, kind="bound" if result.kind == ORACLE else "method", measured=measured)
            )
    return found


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
        better = sum(other > value for other in present) if value is not None else 2
        result.append("best" if better == 0 else "second" if better == 1 else "")
    return result if len(present) > 1 else [""] * len(values)


def _competes(metric: str, row: Entry) -> bool:
    return row.kind == "method" and metric in row.measured.values


def number(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "nll" else f"{value:.4f}"


def metric_cells(metrics: Sequence[tuple[str, str]], rows: Sequence[Entry]) -> list[list[Cell]]:
    """cells[row][column], marked column by column."""
    marked = {metric: marks(metric, rows) for metric, _ in metrics}
    return [
        [_cell(metric, row.measured, marked[metric][index]) for metric, _ in metrics] for index, row in enumerate(rows)
    ]


def _cell(metric: str, measured: Measured, mark: Mark) -> Cell:
    if metric not in measured.values:
        return Cell(text=NOTHING)
    low_high = measured.ci95.get(metric)
    interval = f"{number(metric, low_high[0])}–{number(metric, low_high[1])}" if low_high else ""
    return Cell(text=number(metric, measured.values[metric]), mark=mark, interval=interval)


def share_of_oracle(row: Entry, rows: Sequence[Entry]) -> float | None:
    """HR@10 as a fraction of the best possible one, where an oracle is known."""
    bound = next((r.measured.values.get(SHARE_OF) for r in rows if r.kind == "bound"), None)
    value = row.measured.values.get(SHARE_OF)
    return value / bound if bound and value is not None and row.kind == "method" else None


def main_table(
    set_name: str,
    results: Sequence[Result],
    reference: Sequence[ReferenceRow],
    manifest: Mapping[str, Any],
    signs: Signs | None = None,
) -> Table:
    """Full-catalogue ranking of one set: methods as rows; the oracle and references below."""
    rows = entries(set_name, PRIMARY, results) + reference_entries(set_name, reference)
    cells = signed(set_name, MAIN, rows, metric_cells(MAIN, rows), signs or {})
    has_bound = any(row.kind == "bound" for row in rows)
    notes: list[str] = []
    table_rows = []
    for row, figures in zip(rows, cells, strict=True):
        name = row.name
        if row.kind == "bound":
            name += " (upper bound)"
        if row.source:
            if row.source not in notes:
                notes.append(row.source)
            name += f" [{notes.index(row.source) + 1}]"
        line = [Cell(text=name), *figures, Cell(text=f"{row.measured.users:,}" if row.measured.users else NOTHING)]
        if has_bound:
            share = share_of_oracle(row, rows)
            line.append(Cell(text=f"{share:.0%}" if share is not None else NOTHING))
        table_rows.append(Row(cells=tuple(line), kind=row.kind))
    columns = ["Method", *(label for _, label in MAIN), "Users", *(["of oracle"] if has_bound else [])]
    return Table(
        title=set_name,
        subtitle=describe_set(set_name, results, manifest),
        warning=small_warning(set_name, results, manifest),
        columns=tuple(Column(name=name) for name in columns),
        rows=tuple(table_rows),
        notes=tuple(f"[{index}] {note}" for index, note in enumerate(notes, start=1)),
    )


def signed(
    set_name: str,
    metrics: Sequence[tuple[str, str]],
    rows: Sequence[Entry],
    cells: Sequence[Sequence[Cell]],
    signs: Signs,
) -> list[list[Cell]]:
    """The cells, with the sign of (set, metric, method) behind the figure."""
    found = []
    for row, line in zip(rows, cells, strict=True):
        behind = [signs.get((set_name, metric, row.name), "") for metric, _ in metrics]
        found.append([replace(cell, text=cell.text + sign) for cell, sign in zip(line, behind, strict=True)])
    return found


def overview_tables(
    sets: Sequence[str], results: Sequence[Result], manifest: Mapping[str, Any], signs: Signs, at_once: int = 4
) -> list[Table]:
    """The paper's table: methods as rows, at most `at_once` sets side by side with the metrics of each; none for a
    single set. Small sets have a sign behind their name."""
    parts = [sets[start : start + at_once] for start in range(0, len(sets), at_once)] if len(sets) > 1 else []
    titles = ["All sets"] if len(parts) == 1 else [f"All sets ({n} of {len(parts)})" for n in range(1, len(parts) + 1)]
    return [_overview(part, results, manifest, signs, title) for part, title in zip(parts, titles, strict=True)]


def _overview(
    sets: Sequence[str], results: Sequence[Result], manifest: Mapping[str, Any], signs: Signs, title: str
) -> Table:
    columns, lines = [Column(name="Method")], {result.name: [Cell(text=result.name)] for result in results}
    for name in sets:
        rows = entries(name, PRIMARY, results)
        group = f"{name} {SMALL_SIGN}" if is_small(name, results, manifest) else name
        columns += [Column(name=label, group=group) for _, label in OVERVIEW]
        cells = signed(name, OVERVIEW, rows, metric_cells(OVERVIEW, rows), signs)
        found = {row.name: [replace(cell, interval="") for cell in line] for row, line in zip(rows, cells, strict=True)}
        for method in lines:
            lines[method] += found.get(method, [Cell(text=NOTHING)] * len(OVERVIEW))
    body = tuple(Row(cells=tuple(lines[r.name]), kind="bound" if r.kind == ORACLE else "method") for r in results)
    small = any(is_small(name, results, manifest) for name in sets)
    notes = (f"{SMALL_SIGN} Too small: fewer than {SMALL_SET} users; differences mean little",) if small else ()
    return Table(title=title, columns=tuple(columns), rows=body, notes=notes)


def describe_set(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> str:
    """One line: users (how many of them were ranked), catalogue, role, split."""
    info = manifest["sets"].get(set_name, {})
    here = [result for result in results if set_name in result.sets]
    words = [_ranked_of(set_name, results, manifest)]
    if "n_items" in info:
        words.append(f"{info['n_items']:,} items ranked")
    role = {"pretrain": "seen in pre-training", "downstream": "unseen in pre-training"}.get(info.get("role", ""))
    split = {"time": "global time split", "leave_one_out": "leave-one-out"}.get(info.get("split", ""))
    masked = (
        "items of the history not ranked" if any(r.sets[set_name].facts.get("history_masked") for r in here) else ""
    )
    return ", ".join([*words, *(word for word in (role, split, masked) if word)])


def split_of(results: Sequence[Result]) -> str:
    """The split that results which may stand in one table were made on."""
    return next((result.split for result in results if result.split != "test"), "test")


def users_of(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> int:
    """How many users the corpus has in a set and the results' split, ranked or not."""
    known = manifest["sets"].get(set_name, {}).get(f"n_{split_of(results)}_users", 0)
    return max(known, test_users(set_name, results))


def is_small(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> bool:
    """Whether the corpus has few users in a set: as `prepare` says for the test split. How many were ranked is another
    matter."""
    info = manifest["sets"].get(set_name, {})
    if split_of(results) == "test" and "too_small" in info:
        return bool(info["too_small"])
    return users_of(set_name, results, manifest) < SMALL_SET


def small_warning(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> str:
    return small_words(users_of(set_name, results, manifest)) if is_small(set_name, results, manifest) else ""


def small_words(users: int) -> str:
    return f"too small: {users:,} users, fewer than {SMALL_SET}; differences mean little"


def _ranked_of(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> str:
    ranked, there = test_users(set_name, results), users_of(set_name, results, manifest)
    return f"{ranked:,}{f' of {there:,}' if ranked < there else ''} {split_of(results)} users"


def protocol_table(
    set_name: str, protocol: str, results: Sequence[Result], manifest: Mapping[str, Any]
) -> Table | None:
    """One protocol other than the primary one; None if nobody was evaluated under it."""
    rows = entries(set_name, protocol, results)
    if not rows:
        return None
    cells = metric_cells(SAMPLED, rows)
    lines = tuple(
        Row(cells=(Cell(text=row.name), *line, Cell(text=f"{row.measured.users:,}")), kind=row.kind)
        for row, line in zip(rows, cells, strict=True)
    )
    columns = tuple(Column(name=name) for name in ("Method", *(label for _, label in SAMPLED), "Users"))
    title = f"{set_name}, {protocol.replace('_', ' ')}"
    return Table(title=title, columns=columns, rows=lines, warning=small_warning(set_name, results, manifest))


def slice_tables(
    set_name: str, results: Sequence[Result], manifest: Mapping[str, Any], at_once: int = 4
) -> list[Table]:
    """Tables of slices side by side, each with a group of columns: those that ask one question, then the others, at
    most `at_once`."""
    found = list({name: None for result in results if set_name in result.sets for name in result.sets[set_name].slices})
    groups = [(title, [name for name in names if name in found]) for title, names in SLICE_GROUPS]
    rest = [name for name in found if not any(name in names for _, names in groups)]
    groups += [("more slices", rest[start : start + at_once]) for start in range(0, len(rest), at_once)]
    return [table for title, names in groups if (table := _slice_table(set_name, names, results, manifest, title))]


def _slice_table(
    set_name: str, names: Sequence[str], results: Sequence[Result], manifest: Mapping[str, Any], title: str
) -> Table | None:
    by_slice = {name: entries(set_name, PRIMARY, results, name) for name in names}
    methods = [
        result for result in results if any(entry.name == result.name for rows in by_slice.values() for entry in rows)
    ]
    if not methods:
        return None
    columns, cells_of = [Column(name="Method")], {method.name: [Cell(text=method.name)] for method in methods}
    for name, rows in by_slice.items():
        users = max((row.measured.users for row in rows), default=0)
        group = f"{name.capitalize()} ({users:,} users)"
        columns += [Column(name=label, group=group) for _, label in SLICED]
        found = dict(zip([row.name for row in rows], metric_cells(SLICED, rows), strict=True))
        for method in methods:
            cells_of[method.name] += found.get(method.name, [Cell(text=NOTHING)] * len(SLICED))
    lines = tuple(Row(cells=tuple(cells_of[m.name]), kind="bound" if m.kind == ORACLE else "method") for m in methods)
    return Table(
        title=f"{set_name}, {title}",
        columns=tuple(columns),
        rows=lines,
        warning=small_warning(set_name, results, manifest),
    )


def facts_table(set_name: str, results: Sequence[Result]) -> Table | None:
    """What the harness records beside ranks; None where it recorded none of it."""
    rows = []
    for result in results:
        facts = result.sets[set_name].facts if set_name in result.sets else {}
        if any(key in facts for key, _ in FACTS):
            cells = (Cell(text=result.name), *(Cell(text=_fact(facts.get(key))) for key, _ in FACTS))
            rows.append(Row(cells=cells, kind="bound" if result.kind == ORACLE else "method"))
    columns = tuple(Column(name=name) for name in ("Method", *(label for _, label in FACTS)))
    return Table(title=set_name, columns=columns, rows=tuple(rows)) if rows else None


def _fact(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else describe(value)


def methods_table(results: Sequence[Result]) -> Table:
    """What each row is: kind, step, scoring rule, seeds, cost."""
    names = ("Result", "Kind", "Step", "Scoring rule", "Seeds", "Cost")
    lines = []
    for result in results:
        cost = {
            key: value for key, value in result.cost.items() if not isinstance(value, Mapping)
        }  # totals, not set by set
        words = (result.name, result.kind, result.step, result.scoring_rule, result.seeds, cost)
        lines.append(
            Row(
                cells=tuple(Cell(text=describe(word)) for word in words),
                kind="bound" if result.kind == ORACLE else "method",
            )
        )
    return Table(
        title="What the rows are",
        columns=tuple(Column(name=name) for name in names),
        rows=tuple(lines),
        text_columns=len(names),
    )


def forgetting_table(results: Sequence[Result]) -> Table | None:
    """Perplexity of every language model on the held-out general text; None where no result has one."""
    rows = [result for result in results if result.general_text]
    if not rows:
        return None
    keys = (("perplexity", "Perplexity"), ("bits_per_byte", "Bits a byte"), ("tokens", "Tokens"))
    return Table(
        title=f"Held-out general text: {describe(rows[0].general_text.get('file'))}",
        columns=(Column(name="Method"), *(Column(name=title) for _, title in keys)),
        rows=tuple(
            Row(cells=(Cell(text=row.name), *(Cell(text=describe(row.general_text.get(key))) for key, _ in keys)))
            for row in rows
        ),
    )


def describe(value: Any, nested: bool = False) -> str:
    """Any small JSON value in words; nested mappings become `key value, key value`."""
    if value is None or value == {} or value == []:
        return NOTHING
    if isinstance(value, Mapping):
        # The keys inside may be names of sets, which stay as they are.
        return ", ".join(
            f"{key if nested else str(key).replace('_', ' ')} {describe(inner, True)}" for key, inner in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(describe(inner) for inner in value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True, kw_only=True)
class Section:
    """Tables under one heading. `folded` ones are closed at first in HTML."""

    title: str
    intro: str
    tables: tuple[Table, ...] = field(default_factory=tuple)
    folded: bool = False
