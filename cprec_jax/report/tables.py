"""The tables of results: of one set, of all, of slices, of facts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cprec_jax.config.report import ReferenceRow
from cprec_jax.corpus import SMALL_SET
from cprec_jax.evaluate.results import Measured, Result
from cprec_jax.report.entries import (
    PRIMARY,
    Entry,
    SignificanceMarks,
    entries,
    marks,
    number,
    reference_entries,
    row_kind,
    share_of_oracle,
)
from cprec_jax.report.set_facts import describe_set, is_small, small_warning
from cprec_jax.report.table import NOTHING, Cell, Column, Mark, Row, Table, describe

SMALL_SIGN = "‡"
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
