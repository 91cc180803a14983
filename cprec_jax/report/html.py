"""The report as one HTML file: styles inline, plots as data URIs, nothing fetched from anywhere."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from cprec_jax.report.render import one_line
from cprec_jax.report.table import Cell, Row, Section, Table

# Nothing but this file's own styles and images can be loaded, whatever a name in the data may try.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

CSS = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --line: #e1e6ec; --fill: #f5f7fa; --accent: #0b63a5; }
* { box-sizing: border-box; }
body {
  margin: 0; background: #fff; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 6px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 0; overflow-wrap: anywhere; }
p { margin: 4px 0 10px; }
.soft, figcaption, caption { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 6px; margin: 16px 0 0; }
nav a {
  padding: 3px 11px; border: 1px solid var(--line); border-radius: 14px; color: var(--accent);
  text-decoration: none; font-size: 13px;
}
.block { margin: 18px 0 26px; }
.block > .soft { margin: 1px 0 6px; }
.warning {
  display: inline-block; margin: 2px 0 6px; padding: 1px 9px; border-radius: 4px; background: #fff3d6;
  color: #7a4b00; font-size: 13px; overflow-wrap: anywhere;
}
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td {
  padding: 6px 11px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: top;
}
tr:last-child > * { border-bottom: 0; }
thead th {
  background: var(--fill); color: var(--soft); font-weight: 600; font-size: 12.5px; line-height: 1.3;
  border-bottom: 1px solid var(--line); white-space: normal; vertical-align: bottom;
}
thead th.group { text-align: center; border-left: 1px solid var(--line); color: var(--ink); }
.grouped { font-size: 12.5px; width: auto; }
.grouped th, .grouped td { padding-left: 6px; padding-right: 6px; }
.word { text-align: left; white-space: normal; overflow-wrap: break-word; min-width: 70px; }
.first {
  text-align: left; font-weight: 600; position: sticky; left: 0; background: #fff; white-space: normal;
  overflow-wrap: break-word; min-width: 120px; max-width: 260px;
}
thead .first { background: var(--fill); }
.best { font-weight: 700; color: var(--accent); }
.second { text-decoration: underline; text-underline-offset: 3px; }
.interval { display: block; color: var(--soft); font-size: 11px; font-weight: 400; line-height: 1.3; }
tr.bound > *, tr.reference > * { color: var(--soft); background: #fbfcfd; font-style: italic; }
figure { margin: 18px 0 26px; }
figure .scroll { border: 0; }
figure img { display: block; width: 100%; max-width: 820px; min-width: 540px; height: auto; }
details { margin: 14px 0; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 600px) {
  main { padding: 18px 12px 40px; }
  th, td { padding: 5px 8px; }
  .first { min-width: 96px; max-width: 130px; overflow-wrap: anywhere; }
}
"""


def html_page(
    title: str, intro: Sequence[str], sections: Sequence[Section], plots: Mapping[str, str], directory: Path
) -> str:
    """The whole page; `plots` maps files in `directory` to captions and is placed after the first section."""
    titles = [section.title for section in sections]
    if plots:
        titles.insert(1, "Curves")
    links = "".join(f'<a href="#{_anchor(name)}">{_text(name)}</a>' for name in titles)
    parts = [_section(section) for section in sections]
    if plots:
        figures = "".join(_figure(directory / name, caption) for name, caption in plots.items())
        parts.insert(1, f'<section id="{_anchor("Curves")}"><h2>Curves</h2>{figures}</section>')
    lines = "".join(
        f'<p class="{"warning" if line.startswith("Warning: ") else "soft"}">{_text(line)}</p>' for line in intro
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{_text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{_text(title)}</h1>{lines}<nav>{links}</nav></header>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return escape(one_line(text))


def _anchor(title: str) -> str:
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in title.lower()).split())


def _section(section: Section) -> str:
    tables = "".join(_table(table) for table in section.tables)
    if section.folded:
        tables = (
            f"<details><summary>Show {len(section.tables)} "
            f"table{'s' * (len(section.tables) != 1)}</summary>{tables}</details>"
        )
    intro = f"<p>{_text(section.intro)}</p>" if section.intro else ""
    return f'<section id="{_anchor(section.title)}"><h2>{_text(section.title)}</h2>{intro}{tables}</section>'


def _table(table: Table) -> str:
    subtitle = f'<p class="soft">{_text(table.subtitle)}</p>' if table.subtitle else ""
    warning = f'<span class="warning">{_text(table.warning)}</span>' if table.warning else ""
    notes = "".join(f'<p class="soft">{_text(note)}</p>' for note in table.notes)
    rows = "".join(_row(row, table.text_columns) for row in table.rows)
    grouped = ' class="grouped"' if any(column.group for column in table.columns) else ""
    return (
        f'<div class="block"><h3>{_text(table.title)}</h3>{subtitle}{warning}'
        f'<div class="scroll"><table{grouped}><thead>{_head(table)}</thead><tbody>{rows}</tbody></table></div>'
        f"{notes}</div>"
    )


def _head(table: Table) -> str:
    grouped = any(column.group for column in table.columns)
    lines = ""
    if grouped:
        spans = [
            (group, len(list(columns))) for group, columns in groupby(table.columns, key=lambda column: column.group)
        ]
        cells = "".join(
            f'<th class="group" scope="colgroup" colspan="{n}">{_text(group)}</th>'
            if group
            else f'<th class="first" colspan="{n}"></th>'
            for group, n in spans
        )
        lines += f"<tr>{cells}</tr>"
    names = "".join(
        f'<th scope="col" class="{_column_class(index, table.text_columns)}">{_text(column.name)}</th>'
        for index, column in enumerate(table.columns)
    )
    return lines + f"<tr>{names}</tr>"


def _column_class(index: int, text_columns: int) -> str:
    return "first" if index == 0 else "word" if index < text_columns else "figure"


def _row(row: Row, text_columns: int) -> str:
    first, *others = row.cells
    cells = f'<th scope="row" class="first">{_cell(first)}</th>'
    cells += "".join(
        f'<td class="{_column_class(i, text_columns)}">{_cell(cell)}</td>' for i, cell in enumerate(others, start=1)
    )
    return f'<tr class="{row.kind}">{cells}</tr>'


def _cell(cell: Cell) -> str:
    text = _text(cell.text)
    if cell.mark:
        text = f'<span class="{cell.mark}">{text}</span>'
    return text + (f'<span class="interval">{_text(cell.interval)}</span>' if cell.interval else "")


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    image = f'<img alt="{_text(caption)}" src="data:image/png;base64,{data}">'
    return f'<figure><div class="scroll">{image}</div><figcaption>{_text(caption)}</figcaption></figure>'
