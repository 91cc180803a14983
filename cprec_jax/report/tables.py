"""Tables of results as data: the text and mark of each cell. `render`, `html` and `latex` print them."""

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

SignificanceMarks = Mapping[tuple[str, str, str], str]  # (set, metric, method) -> what stands behind the figure
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
    """The first `text_columns` columns hold text, the others figures. Nothing in it is escaped yet."""

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
    position = {name: index for index, name in enumerate(order)}
    return sorted(results, key=lambda r: (r.kind == ORACLE, position.get(r.name, len(position)), r.name))


def set_names(results: Sequence[Result], manifest: Mapping[str, Any]) -> list[str]:
    """Sets that were evaluated, in the order of the corpus."""
    evaluated = {name for result in results for name in result.sets}
    of_corpus = [name for name in manifest["sets"] if name in evaluated]
    return of_corpus + sorted(evaluated - set(of_corpus))


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


def test_users(set_name: str, results: Sequence[Result]) -> int:
    return max((result.sets[set_name].users for result in results if set_name in result.sets), default=0)


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
    oracle = next((r.measured.values.get(SHARE_OF) for r in rows if r.kind == "bound"), None)
    value = row.measured.values.get(SHARE_OF)
    return value / oracle if oracle and value is not None and row.kind == "method" else None


def main_table(
    set_name: str,
    results: Sequence[Result],
    reference: Sequence[ReferenceRow],
    manifest: Mapping[str, Any],
    significance: SignificanceMarks | None = None,
) -> Table:
    """Full-catalogue ranking of one set: methods as rows; the oracle and references below."""
    rows = entries(set_name, PRIMARY, results) + reference_entries(set_name, reference)
    cells = with_significance(set_name, MAIN, rows, metric_cells(MAIN, rows), significance or {})
    has_oracle = any(row.kind == "bound" for row in rows)
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
        if has_oracle:
            share = share_of_oracle(row, rows)
            line.append(Cell(text=f"{share:.0%}" if share is not None else NOTHING))
        table_rows.append(Row(cells=tuple(line), kind=row.kind))
    columns = ["Method", *(label for _, label in MAIN), "Users", *(["of oracle"] if has_oracle else [])]
    return Table(
        title=set_name,
        subtitle=describe_set(set_name, results, manifest),
        warning=small_warning(set_name, results, manifest),
        columns=tuple(Column(name=name) for name in columns),
        rows=tuple(table_rows),
        notes=tuple(f"[{index}] {note}" for index, note in enumerate(notes, start=1)),
    )


def with_significance(
    set_name: str,
    metrics: Sequence[tuple[str, str]],
    rows: Sequence[Entry],
    cells: Sequence[Sequence[Cell]],
    significance: SignificanceMarks,
) -> list[list[Cell]]:
    """The cells, with the significance mark of (set, metric, method) behind the figure."""
    marked_rows = []
    for row, line in zip(rows, cells, strict=True):
        behind = [significance.get((set_name, metric, row.name), "") for metric, _ in metrics]
        marked_rows.append([replace(cell, text=cell.text + mark) for cell, mark in zip(line, behind, strict=True)])
    return marked_rows


def overview_tables(
    sets: Sequence[str],
    results: Sequence[Result],
    manifest: Mapping[str, Any],
    significance: SignificanceMarks,
    sets_per_table: int = 4,
) -> list[Table]:
    """The table of papers: methods as rows, at most `sets_per_table` sets side by side, each with its metrics; none for
    a single set. A small set has `SMALL_SIGN` behind its name."""
    starts = range(0, len(sets), sets_per_table) if len(sets) > 1 else ()
    parts = [sets[start : start + sets_per_table] for start in starts]
    titles = ["All sets"] if len(parts) == 1 else [f"All sets ({n} of {len(parts)})" for n in range(1, len(parts) + 1)]
    return [_overview(part, results, significance, title) for part, title in zip(parts, titles, strict=True)]


def _overview(sets: Sequence[str], results: Sequence[Result], significance: SignificanceMarks, title: str) -> Table:
    columns, lines = [Column(name="Method")], {result.name: [Cell(text=result.name)] for result in results}
    for name in sets:
        rows = entries(name, PRIMARY, results)
        group = f"{name} {SMALL_SIGN}" if is_small(name, results) else name
        columns += [Column(name=label, group=group) for _, label in OVERVIEW]
        cells = with_significance(name, OVERVIEW, rows, metric_cells(OVERVIEW, rows), significance)
        of_set = {
            row.name: [replace(cell, interval="") for cell in line] for row, line in zip(rows, cells, strict=True)
        }
        for method in lines:
            lines[method] += of_set.get(method, [Cell(text=NOTHING)] * len(OVERVIEW))
    body = tuple(Row(cells=tuple(lines[r.name]), kind=row_kind(r)) for r in results)
    small = any(is_small(name, results) for name in sets)
    notes = (f"{SMALL_SIGN} Too small: fewer than {SMALL_SET} users; differences mean little",) if small else ()
    return Table(title=title, columns=tuple(columns), rows=body, notes=notes)


def describe_set(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> str:
    """One line: users (how many of them were ranked), catalogue, role, split."""
    info = manifest["sets"].get(set_name, {})
    parts = [_ranked_of(set_name, results, manifest)]
    if "n_items" in info:
        parts.append(f"{info['n_items']:,} items ranked")
    role = {"pretrain": "seen in pre-training", "downstream": "unseen in pre-training"}.get(info.get("role", ""))
    split = {"time": "global time split", "leave_one_out": "leave-one-out"}.get(info.get("split", ""))
    masked = "items of the history not ranked" if _has_fact(set_name, results, "history_masked") else ""
    return ", ".join([*parts, *(part for part in (role, split, masked) if part)])


def split_of(results: Sequence[Result]) -> str:
    """The split that results which may stand in one table were made on."""
    return next((result.split for result in results if result.split != "test"), "test")


def users_of(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> int:
    """How many users the corpus has in a set and the results' split, ranked or not."""
    known = manifest["sets"].get(set_name, {}).get(f"n_{split_of(results)}_users", 0)
    return max(known, test_users(set_name, results))


def is_small(set_name: str, results: Sequence[Result]) -> bool:
    """Whether the corpus has fewer than `SMALL_SET` users in a set and split, as the results say. How many of them were
    ranked is another matter."""
    return _has_fact(set_name, results, "too_small")


def _has_fact(set_name: str, results: Sequence[Result], fact: str) -> bool:
    """Whether a fact is true of a set in any of the results."""
    return any(bool(result.sets[set_name].facts.get(fact)) for result in results if set_name in result.sets)


def small_warning(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> str:
    return small_note(users_of(set_name, results, manifest)) if is_small(set_name, results) else ""


def small_note(users: int) -> str:
    return f"too small: {users:,} users, fewer than {SMALL_SET}; differences mean little"


def _ranked_of(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> str:
    ranked, available = test_users(set_name, results), users_of(set_name, results, manifest)
    return f"{ranked:,}{f' of {available:,}' if ranked < available else ''} {split_of(results)} users"


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
    set_name: str, results: Sequence[Result], manifest: Mapping[str, Any], slices_per_table: int = 4
) -> list[Table]:
    """Tables of slices side by side, a group of columns per slice: first those of `SLICE_GROUPS`, then the others, at
    most `slices_per_table` in each."""
    slices = dict.fromkeys(
        name for result in results if set_name in result.sets for name in result.sets[set_name].slices
    )
    groups = [(title, [name for name in names if name in slices]) for title, names in SLICE_GROUPS]
    rest = [name for name in slices if not any(name in names for _, names in groups)]
    starts = range(0, len(rest), slices_per_table)
    groups += [("more slices", rest[start : start + slices_per_table]) for start in starts]
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
        of_slice = dict(zip([row.name for row in rows], metric_cells(SLICED, rows), strict=True))
        for method in methods:
            cells_of[method.name] += of_slice.get(method.name, [Cell(text=NOTHING)] * len(SLICED))
    lines = tuple(Row(cells=tuple(cells_of[m.name]), kind=row_kind(m)) for m in methods)
    return Table(
        title=f"{set_name}, {title}",
        columns=tuple(columns),
        rows=lines,
        warning=small_warning(set_name, results, manifest),
    )


def facts_table(set_name: str, results: Sequence[Result]) -> Table | None:
    """What evaluation records beside ranks; None where no result has any of it."""
    rows = []
    for result in results:
        facts = result.sets[set_name].facts if set_name in result.sets else {}
        if any(key in facts for key, _ in FACTS):
            cells = (Cell(text=result.name), *(Cell(text=_fact(facts.get(key))) for key, _ in FACTS))
            rows.append(Row(cells=cells, kind=row_kind(result)))
    columns = tuple(Column(name=name) for name in ("Method", *(label for _, label in FACTS)))
    return Table(title=set_name, columns=columns, rows=tuple(rows)) if rows else None


def _fact(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else describe(value)


def methods_table(results: Sequence[Result]) -> Table:
    """Kind, step, scoring rule, seeds and cost of each row."""
    names = ("Result", "Kind", "Step", "Scoring rule", "Seeds", "Cost")
    lines = []
    for result in results:
        # totals, not set by set
        cost = {key: value for key, value in result.cost.items() if not isinstance(value, Mapping)}
        values = (result.name, result.kind, result.step, result.scoring_rule, result.seeds, cost)
        lines.append(
            Row(
                cells=tuple(Cell(text=describe(value)) for value in values),
                kind=row_kind(result),
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
    keys = (("perplexity", "Perplexity"), ("bits_per_byte", "Bits per byte"), ("tokens", "Tokens"))
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
