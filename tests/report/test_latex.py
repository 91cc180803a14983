"""LaTeX: structure, marks, and no markup from names."""

from cprec_jax.report.latex import escape, latex_table
from cprec_jax.report.table import Cell, Column, Row, Table

TABLE = Table(
    title="A & B",
    columns=(Column(name="Method"), Column(name="HR@10", group="Books"), Column(name="NLL", group="Books")),
    rows=(
        Row(cells=(Cell(text="cpt_1"), Cell(text="0.2400†", mark="best"), Cell(text="5.1", mark="second"))),
        Row(cells=(Cell(text="oracle"), Cell(text="0.3"), Cell(text="4.9")), kind="bound"),
    ),
    warning="50 % of users",
)


def test_a_table() -> None:
    lines = latex_table(TABLE).splitlines()
    assert r"cpt\_1 & \textbf{0.2400$^{\dagger}$} & \underline{5.1} \\" in lines
    assert r" & \multicolumn{2}{c}{Books} \\" in lines and r"\cmidrule(lr){2-3}" in lines
    assert r"\caption{A \& B.}" in lines and r"\begin{tabular}{lrr}" in lines
    assert lines.index(r"oracle & 0.3 & 4.9 \\") == lines.index(r"\bottomrule") - 1 and lines.count(r"\midrule") == 2
    assert r"\par\footnotesize 50 \% of users" in lines


def test_nothing_in_a_name_is_markup() -> None:
    text = escape("\\input{x} $a$ #1 ~^ \x1b[0m")
    assert (
        text.startswith(r"\textbackslash{}input\{x\} \$a\$ \#1 \textasciitilde{}\textasciicircum{}")
        and "\x1b" not in text
    )
