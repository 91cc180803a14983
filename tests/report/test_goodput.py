"""Goodput in words and tables."""

from pathlib import Path

from cprec_jax.attempts import Attempt
from cprec_jax.report.goodput import goodput_line, goodput_section, read_ledgers

KILLED = Attempt(
    number=1, begin=0.0, end=50.0, processes=2, last_step=40, why="died", seconds={"compile": 10.0, "steps": 40.0}
)
DONE = Attempt(
    number=2, begin=60.0, end=100.0, processes=2, last_step=60, why="done", seconds={"steps": 20.0, "again": 20.0}
)


def test_the_line_names_the_causes_by_what_they_cost() -> None:
    line = goodput_line("cpt", [KILLED, DONE])
    assert line == "cpt: goodput 60.0 % of 100 s in 2 attempts; steps again 20.0 %, compile 10.0 %, between 10.0 %"


def test_the_tables_have_runs_and_attempts() -> None:
    runs, attempts = goodput_section({"cpt": [KILLED, DONE]}).tables
    (row,) = runs.rows
    words = dict(zip((column.name for column in runs.columns), (cell.text for cell in row.cells), strict=True))
    assert words["Goodput"] == "60.0 %" and words["steps again"] == "20.0 %" and words["data wait"] == "0.0 %"
    assert [row.cells[-1].text for row in attempts.rows] == ["died", "done"]


def test_no_section_without_attempts(tmp_path: Path) -> None:
    (tmp_path / "runs/cpt").mkdir(parents=True)
    assert read_ledgers(tmp_path) == {} and goodput_section({}).tables == ()
