"""Plain text, Markdown and CSV."""

import csv
import io

import pytest

from cprec_jax.config.report import ReferenceRow
from cprec_jax.evaluate.results import Measured, Result, SetResult
from cprec_jax.report.render import CSV_COLUMNS, WIDTH, csv_text, escape_markdown, markdown_table, plain_text
from cprec_jax.report.table import Cell, Column, Row, Table

HOSTILE = '<script>alert("x")</script> | *a* [b](http://c) `d` \x1b[31m\n# e'


def table(name: str = "cpt") -> Table:
    cells = (Cell(text=name), Cell(text="0.2000", mark="best", interval="0.1–0.3"), Cell(text="5.000", mark="second"))
    other = (Cell(text="random"), Cell(text="0.1000"), Cell(text="6.000"))
    columns = (Column(name="Method"), Column(name="HR@10"), Column(name="NLL"))
    return Table(
        title="Books",
        columns=columns,
        rows=(Row(cells=cells), Row(cells=other)),
        subtitle="800 users",
        notes=("[1] a " * 60,),
    )


def test_plain_text_is_aligned_marked_and_fits_the_terminal():
    text = plain_text([table("a" * 200), table()])
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    rows = [line for line in lines if "0.2000" in line or "0.1000" in line]
    assert len({line.index(".") for line in rows[:2]}) == 1  # digits stand below digits
    assert "0.2000*" in text and "5.000+" in text and "…" in text


def test_plain_text_holds_no_terminal_escapes_and_one_line_a_row():
    text = plain_text([table(HOSTILE)])
    assert "\x1b" not in text
    assert sum("0.2000" in line for line in text.splitlines()) == 1


def test_markdown_marks_and_intervals():
    text = markdown_table(table())
    assert "| cpt | **0.2000** (0.1–0.3) | <u>5.000</u> |" in text
    assert "| --- | ---: | ---: |" in text


def test_markdown_is_escaped():
    row = next(line for line in markdown_table(table(HOSTILE)).splitlines() if "0.2000" in line)
    assert "<script" not in row
    assert row.replace("\\|", "").count("|") == 4
    assert "\\*a\\*" in row and "\\[b\\](" in row and "\\`d\\`" in row
    assert escape_markdown("plain words, 12-5 (x)") == "plain words, 12-5 (x)"


def test_csv_keeps_every_figure_exactly():
    name = 'a "quoted", name;\nwith = a line break'
    full = Measured(users=7, values={"hr@10": 1 / 3, "nll": 5.123456789012345}, ci95={"hr@10": (0.1, 0.7)})
    warm = Measured(users=3, values={"hr@10": 2 / 3})
    sets = {
        "Böoks": SetResult(
            users=7, protocols={"full": full}, slices={"warm": {"full": warm}}, facts={"too_small": True}
        )
    }
    reference = [
        ReferenceRow(set_name="Böoks", method="SASRec", values={"hr@10": 0.06}, source="a paper", protocol="loo")
    ]
    manifest = {"sets": {}, "counts": {"Böoks": {"read": {"interactions": 12, "users": 3, "items": 4}}}}
    text = csv_text([Result(name=name, kind="checkpoint", sets=sets)], reference, manifest)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(rows[0]) == CSV_COLUMNS
    found = {(r["set"], r["method"], r["kind"], r["slice"], r["metric"]): float(r["value"]) for r in rows}
    assert found == {
        ("Böoks", name, "method", "", "hr@10"): 1 / 3,
        ("Böoks", name, "method", "", "nll"): 5.123456789012345,
        ("Böoks", name, "method", "warm", "hr@10"): 2 / 3,
        ("Böoks", "SASRec", "reference", "", "hr@10"): 0.06,
        ("Böoks", "", "corpus", "read", "interactions"): 12,
        ("Böoks", "", "corpus", "read", "users"): 3,
        ("Böoks", "", "corpus", "read", "items"): 4,
    }
    assert (float(rows[0]["ci_low"]), float(rows[0]["ci_high"]), rows[0]["users"]) == (0.1, 0.7, "7")
    assert rows[3]["source"] == "a paper" and [row["too_small"] for row in rows] == ["yes"] * 3 + [""] * 4


def test_csv_says_which_is_best_and_whether_it_leads():
    def one(name: str, kind: str, hr: float, warm: float) -> Result:
        full, of_slice = (Measured(users=9, values={"hr@10": value}) for value in (hr, warm))
        sets = {
            "Books": SetResult(users=9, protocols={"full": full, "u20": of_slice}, slices={"warm": {"full": of_slice}})
        }
        return Result(name=name, kind=kind, sets=sets)

    results = [
        one("a", "checkpoint", 0.3, 0.1),
        one("b", "markov", 0.2, 0.2),
        one("c", "sasrec", 0.1, 0.0),
        one("o", "oracle", 0.9, 0.9),
    ]
    rows = csv.DictReader(io.StringIO(csv_text(results, [], {"sets": {}}, {("Books", "hr@10", "a"): "†"}), newline=""))
    found = {(row["method"], row["protocol"], row["slice"]): row["mark"] + row["sign"] for row in rows}
    assert {name: found[name, "full", ""] for name in "abco"} == {"a": "best†", "b": "second", "c": "", "o": ""}
    for place in (("u20", ""), ("full", "warm")):
        assert {name: found[name, *place] for name in "abco"} == {"a": "second", "b": "best", "c": "", "o": ""}


@pytest.mark.parametrize("mark", ["best", "second"])
def test_a_mark_does_not_move_the_digits(mark):
    rows = tuple(Row(cells=(Cell(text=n), Cell(text="0.1234", mark=m))) for n, m in (("a", mark), ("b", "")))
    lines = plain_text([Table(title="t", columns=(Column(name="M"), Column(name="HR")), rows=rows)]).splitlines()
    assert len({line.index("0.1234") for line in lines if "0.1234" in line}) == 1
