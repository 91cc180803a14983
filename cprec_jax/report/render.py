"""Tables as plain text, Markdown and CSV."""

import csv
import html
import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cprec_jax.config.report import ReferenceRow
from cprec_jax.evaluate.results import Measured, Result
from cprec_jax.report.entries import PRIMARY, Entry, SignificanceMarks, entries, marks, row_kind
from cprec_jax.report.marks import DAGGER
from cprec_jax.report.set_facts import is_small
from cprec_jax.report.table import Cell, Mark, Section, Table

WIDTH = 120
LONGEST_NAME = 40
CSV_METRIC = ("metric", "value", "ci_low", "ci_high", "users", "mark", "sign")
CSV_COLUMNS = ("set", "method", "kind", "protocol", "slice", *CSV_METRIC, "source", "too_small")
TEXT_MARKS = {"best": "*", "second": "+", "": ""}


def plain_text(tables: Sequence[Table]) -> str:
    """Aligned tables for a terminal, at most `WIDTH` columns: `*` best, `+` second."""
    blocks = []
    for table in tables:
        head = one_line(f"{table.title}: {table.subtitle}" if table.subtitle else table.title)
        lines = textwrap.wrap(head, WIDTH)
        lines += textwrap.wrap(f"! {table.warning}", WIDTH) if table.warning else []
        lines += _aligned(
            [[Cell(text=column.name) for column in table.columns], *(row.cells for row in table.rows)],
            table.text_columns,
        )
        for note in table.notes:
            lines += textwrap.wrap(one_line(note), WIDTH, subsequent_indent="    ")
        blocks.append("\n".join(lines))
    legend = (
        "* best, + second of the measured methods (the oracle and figures taken from elsewhere take no part); NLL in "
        "nats, less is better"
    )
    if any(DAGGER in cell.text for table in tables for row in table.rows for cell in row.cells):
        legend += f"; {DAGGER} better than the second with p < 0.05 (paired randomisation over users, Holm over sets)"
    return "\n\n".join([*blocks, "\n".join(textwrap.wrap(legend, WIDTH))]) + "\n"


def _aligned(rows: Sequence[Sequence[Cell]], text_columns: int) -> list[str]:
    texts = [[_shorten(one_line(cell.text)) + TEXT_MARKS[cell.mark] for cell in row] for row in rows]
    # A mark stands in a column of its own, so that the digits stay aligned.
    marked = {i for row in rows for i, cell in enumerate(row) if cell.mark}
    for row, line in zip(rows, texts, strict=True):
        for i in marked:
            line[i] += "" if row[i].mark else " "
    widths = [max(len(line[i]) for line in texts) for i in range(len(texts[0]))]
    lines = [
        "  ".join(
            text.ljust(w) if i < text_columns else text.rjust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in texts
    ]
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def one_line(text: str) -> str:
    """White space collapsed and control characters (terminal escapes among them) removed."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())


def escape_markdown(text: str) -> str:
    """Text that neither Markdown nor the HTML inside it can take for markup."""
    return html.escape(re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", one_line(text)), quote=False)


def markdown_table(table: Table, level: int = 3) -> str:
    """A pipe table: best bold, second underlined, 95 % intervals in brackets."""
    lines = [f"{'#' * level} {escape_markdown(table.title)}", ""]
    if table.subtitle:
        lines += [escape_markdown(table.subtitle) + ".", ""]
    if table.warning:
        lines += [f"**{escape_markdown(table.warning)}**", ""]
    heads = [escape_markdown(f"{column.group} {column.name}".strip()) for column in table.columns]
    rules = ["---" if i < table.text_columns else "---:" for i in range(len(heads))]
    lines += [_pipes(heads), _pipes(rules)]
    for row in table.rows:
        style = "*{}*" if row.kind != "method" else "{}"
        first, *others = row.cells
        lines.append(_pipes([style.format(_markdown_cell(first)), *map(_markdown_cell, others)]))
    for note in table.notes:
        lines += ["", escape_markdown(note)]
    return "\n".join(lines) + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    text = {"best": f"**{text}**", "second": f"<u>{text}</u>", "": text}[cell.mark]
    return f"{text} ({cell.interval})" if cell.interval else text


def markdown(title: str, intro: Sequence[str], sections: Sequence[Section], plots: Mapping[str, str]) -> str:
    """The whole report; `plots` maps a file name beside the report to its caption."""
    parts = [f"# {escape_markdown(title)}\n", *(f"{escape_markdown(line)}\n" for line in intro)]
    for number, section in enumerate(sections):
        parts += [
            f"## {escape_markdown(section.title)}\n",
            f"{escape_markdown(section.intro)}\n" if section.intro else "",
        ]
        parts += [markdown_table(table) for table in section.tables]
        if number == 0 and plots:
            parts += ["## Curves\n", *(f"![{escape_markdown(caption)}]({name})\n" for name, caption in plots.items())]
    return "\n".join(part for part in parts if part)


def csv_text(
    results: Sequence[Result],
    reference: Sequence[ReferenceRow],
    manifest: Mapping[str, Any],
    significance: SignificanceMarks | None = None,
) -> str:
    """Every figure as one line in full precision: results by set, protocol and slice, reference rows, and the corpus's
    counts.

    Columns: `mark`, best or second among the measured methods, as in the tables; `sign`, that of a significant lead on
    the whole catalogue (`significance`); `too_small`, `yes` for a set of which the corpus has fewer than `SMALL_SET`
    users, however few were ranked.
    """
    marked = {}
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for result in results:
        for set_name, of_set in result.sets.items():
            too_small = "yes" if is_small(set_name, results) else ""
            where = {"set": set_name, "method": result.name, "kind": row_kind(result), "too_small": too_small}
            parts = [(protocol, "", measured) for protocol, measured in of_set.protocols.items()]
            parts += [
                (protocol, name, m)
                for name, by_protocol in of_set.slices.items()
                for protocol, m in by_protocol.items()
            ]
            for protocol, slice_name, measured in parts:
                key = (set_name, protocol, slice_name)
                if key not in marked:
                    marked[key] = _marks_of(entries(set_name, protocol, results, slice_name))
                for line in _csv_lines(measured):
                    line["mark"] = marked[key][line["metric"], result.name]
                    on_all = (protocol, slice_name) == (PRIMARY, "")
                    line["sign"] = (
                        (significance or {}).get((set_name, line["metric"], result.name), "") if on_all else ""
                    )
                    writer.writerow({**where, "protocol": protocol, "slice": slice_name, **line})
    for row in reference:
        where = {
            "set": row.set_name,
            "method": row.method,
            "kind": "reference",
            "protocol": row.protocol,
            "source": row.source,
        }
        writer.writerows({**where, **line} for line in _csv_lines(Measured(users=0, values=row.values)))
    for set_name, steps in manifest.get("counts", {}).items():
        for step, counts in steps.items():
            where = {"set": set_name, "kind": "corpus", "slice": step}
            writer.writerows({**where, "metric": metric, "value": value} for metric, value in counts.items())
    return stream.getvalue()


def _marks_of(rows: Sequence[Entry]) -> dict[tuple[str, str], Mark]:
    """By metric and method."""
    metrics = dict.fromkeys(metric for row in rows for metric in row.measured.values)
    return {(metric, row.name): mark for metric in metrics for row, mark in zip(rows, marks(metric, rows), strict=True)}


def _csv_lines(measured: Measured) -> Iterable[dict[str, Any]]:
    for metric, value in measured.values.items():
        low, high = measured.ci95.get(metric, ("", ""))
        yield {"metric": metric, "value": value, "ci_low": low, "ci_high": high, "users": measured.users or ""}
