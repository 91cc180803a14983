"""Tables for LaTeX (package booktabs): best bold, second underlined, significance marks as superscripts."""

from collections.abc import Sequence
from itertools import groupby

from cprec_jax.report.render import one_line
from cprec_jax.report.table import Cell, Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
}
HEAD = "% \\usepackage{booktabs}\n"


def latex(tables: Sequence[Table]) -> str:
    """All tables, one float each."""
    return HEAD + "\n".join(map(latex_table, tables))


def latex_table(table: Table) -> str:
    columns = "".join("l" if index < table.text_columns else "r" for index in range(len(table.columns)))
    caption = escape(f"{table.title}: {table.subtitle}" if table.subtitle else table.title)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}.}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    ]
    if any(column.group for column in table.columns):
        lines += _groups(table)
    lines += [_row([escape(column.name) for column in table.columns]), r"\midrule"]
    previous = table.rows[0].kind if table.rows else ""
    for row in table.rows:
        if row.kind != previous:
            lines.append(r"\midrule")
        previous = row.kind
        lines.append(_row([_cell(cell) for cell in row.cells]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [
        rf"\par\footnotesize {escape(note)}" for note in (*([table.warning] if table.warning else []), *table.notes)
    ]
    return "\n".join([*lines, r"\end{table}", ""])


def _groups(table: Table) -> list[str]:
    cells, rules, column = [], [], 1
    for group, members in groupby(table.columns, key=lambda column: column.group):
        n = len(list(members))
        cells.append(rf"\multicolumn{{{n}}}{{c}}{{{escape(group)}}}" if group else " & ".join([""] * n))
        if group:
            rules.append(rf"\cmidrule(lr){{{column}-{column + n - 1}}}")
        column += n
    return [_row(cells), " ".join(rules)]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", "": text}[cell.mark]


def escape(text: str) -> str:
    """Text that LaTeX cannot take for markup."""
    return "".join(SPECIAL.get(character, character) for character in one_line(text))
