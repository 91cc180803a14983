"""Which cell is best, second, a share of the oracle, or taken from elsewhere."""

import math
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_jax.config.report import ReferenceRow
from cprec_jax.evaluate.results import Measured, Result, SetResult, read_results
from cprec_jax.report.entries import Entry, marks, ordered, with_random
from cprec_jax.report.latex import latex_table
from cprec_jax.report.table import Table, describe
from cprec_jax.report.tables import forgetting_table, main_table, overview_tables, protocol_table, slice_tables
from tests.report import workdirs

SETS = {"Books": 800, "Garden": 120}


def entries(metric: str, *values: float | None, kinds: str = "") -> list[Entry]:
    kind = {"m": "method", "b": "bound", "r": "reference"}
    return [
        Entry(
            name=str(i),
            kind=kind[(kinds or "m" * len(values))[i]],
            measured=Measured(users=1, values={} if v is None else {metric: v}),
        )
        for i, v in enumerate(values)
    ]


def words(metric: str, *values: float | None, kinds: str = "") -> str:
    return "".join(
        {"best": "B", "second": "S", "": "."}[mark] for mark in marks(metric, entries(metric, *values, kinds=kinds))
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.1, 0.3, 0.2), ".BS"),
        ((0.3, 0.3, 0.2), "BB."),  # two share the best: there is no second
        ((0.3, 0.2, 0.2, 0.1), "BSS."),
        ((0.30001, 0.30004, 0.2), "BB."),  # alike as printed
        ((0.3, None, 0.2), "B.S"),
        ((0.3,), "."),  # nothing to compare with
        ((None, None), ".."),
        ((0.0, 0.0), "BB"),
    ],
)
def test_best_and_second_with_ties(values, expected):
    assert words("hr@10", *values) == expected


def test_less_nll_is_better():
    assert words("nll", 6.0, 5.0, 5.5, 5.0) == ".B.B"
    assert words("nll", 6.0, 5.0, 5.5) == ".BS"


def test_oracle_and_references_take_no_part():
    assert words("hr@10", 0.9, 0.2, 0.3, 0.8, kinds="bmmr") == ".SB."
    assert words("nll", 1.0, 5.0, 4.0, 2.0, kinds="bmmr") == ".SB."


def made(tmp_path, quality=workdirs.QUALITY, order=tuple(workdirs.QUALITY)) -> tuple[list[Result], dict]:
    workdirs.make_workdir(tmp_path, SETS, quality)
    manifest = workdirs.manifest(SETS)
    return with_random(ordered(read_results(tmp_path), order), manifest), manifest


def column(table: Table, name: str) -> dict[str, str]:
    index = [c.name for c in table.columns].index(name)
    return {row.cells[0].text: row.cells[index].text for row in table.rows}


def test_rows_follow_the_order_asked_for_and_the_oracle_stands_last(tmp_path):
    results, _ = made(tmp_path, order=("oracle", "cpt", "popularity"))
    assert [r.name for r in results] == ["random", "cpt", "popularity", "cpt-50", "untrained", "oracle"]


def test_share_of_the_oracle_is_that_of_hr10(tmp_path):
    results, manifest = made(tmp_path)
    share = column(main_table("Books", results, (), manifest), "of oracle")
    assert share["cpt"] == f"{0.24 / 0.33:.0%}" == "73%"
    assert share["random"] == f"{(10 / 300) / 0.33:.0%}"
    assert share["oracle (upper bound)"] == "–"


def test_without_an_oracle_there_is_no_share(tmp_path):
    results, manifest = made(tmp_path, {"popularity": 0.1, "cpt": 0.2})
    assert "of oracle" not in [c.name for c in main_table("Books", results, (), manifest).columns]


def test_random_is_always_there_and_a_measured_one_is_kept(tmp_path):
    results, manifest = made(tmp_path / "without", {"cpt": 0.2})
    assert column(main_table("Books", results, (), manifest), "HR@10")["random"] == "0.0333"
    u20 = protocol_table("Books", "u20", results, manifest)
    assert u20 is not None and column(u20, "HR@1")["random"] == "0.0500"
    results, _ = made(tmp_path / "with", {"cpt": 0.2, "random": 0.04})
    assert [r.name for r in results].count("random") == 1
    assert column(main_table("Books", results, (), manifest), "HR@10")["random"] == "0.0400"


def test_random_ranks_what_the_users_of_a_result_had(tmp_path):
    """Histories of 2 and 12 of 20 items are masked: 18 and 8 candidates."""
    workdirs.make_workdir(tmp_path, SETS, {"cpt": 0.2})
    numbers = {"set": ["Books"] * 2, "protocol": ["full"] * 2, "user": [1, 2], "n_candidates": [18, 8]}
    zeros = {name: [0, 0] for name in ("n_better", "n_tied", "nll", "seed")}
    folder = next(path.parent for path in (tmp_path / "results").glob("*/results.json"))
    pq.write_table(pa.table(numbers | zeros), folder / "ranks.parquet")
    random = with_random(read_results(tmp_path), workdirs.manifest(SETS))[0].sets
    books, garden = (random[name].protocols["full"].values for name in ("Books", "Garden"))
    assert books["hr@10"] == pytest.approx((10 / 18 + 1) / 2) and garden["hr@10"] == 10 / 300
    assert books["nll"] == garden["nll"] == math.log(300) and "nll" not in random["Books"].protocols["u20"].values


def test_small_sets_are_marked(tmp_path):
    results, manifest = made(tmp_path)
    assert main_table("Books", results, (), manifest).warning == ""
    assert "too small" in main_table("Garden", results, (), manifest).warning


def test_a_large_set_of_which_few_users_were_ranked_is_not_small(tmp_path):
    workdirs.make_workdir(tmp_path, SETS, {"cpt": 0.2, "popularity": 0.1})
    manifest = workdirs.manifest({"Books": 4000, "Garden": 300})
    results = read_results(tmp_path)  # 800 users of Books, 120 of Garden
    ranked = {name: results[0].sets[name].users for name in SETS}
    books, garden = (main_table(name, results, (), manifest) for name in SETS)
    assert books.warning == "" and books.subtitle.startswith(f"{ranked['Books']:,} of 4,000 test users, ")
    assert garden.warning == "too small: 300 users, fewer than 500; differences mean little"
    assert garden.subtitle.startswith(f"{ranked['Garden']:,} of 300 test users, ")
    few = [replace(one, sets={"Books": replace(one.sets["Books"], users=40)}) for one in results]
    tables = [*overview_tables(["Books", "Books"], few, manifest, {}), *slice_tables("Books", few, manifest)]
    assert not any(table.warning or table.notes for table in [main_table("Books", few, (), manifest), *tables])
    assert protocol_table("Books", "u20", few, manifest).warning == ""
    assert main_table("Books", few, (), manifest).subtitle.startswith("40 of 4,000 test users, ")
    manifest["sets"]["Books"]["n_valid_users"] = 300  # validation has users of its own
    small = replace(few[0].sets["Books"], facts={**few[0].sets["Books"].facts, "too_small": True})
    valid = [replace(one, split="valid", sets={"Books": small}) for one in few]
    assert "too small: 300 users" in main_table("Books", valid, (), manifest).warning


def test_small_sets_are_marked_where_all_sets_stand_side_by_side(tmp_path):
    results, manifest = made(tmp_path)
    (table,) = overview_tables(list(SETS), results, manifest, {})
    assert list(dict.fromkeys(c.group for c in table.columns if c.group)) == ["Books", "Garden ‡"]
    assert table.notes == ("‡ Too small: fewer than 500 users; differences mean little",)
    assert r"Garden $^{\ddagger}$" in latex_table(table)
    (large,) = overview_tables(["Books", "Books"], results, manifest, {})
    assert large.notes == ()


def test_reference_rows_stand_below_unmarked_with_their_source(tmp_path):
    results, manifest = made(tmp_path)
    rows = [
        ReferenceRow(
            set_name="Books", method="SASRec", values={"hr@10": 0.99}, source="a paper", protocol="leave-one-out"
        ),
        ReferenceRow(
            set_name="Books", method="GRU", values={"hr@10": 0.98}, source="another", protocol="leave-one-out"
        ),
        ReferenceRow(set_name="Games", method="other", values={"hr@10": 0.9}, source="a paper", protocol="x"),
    ]
    table = main_table("Books", results, rows, manifest)
    assert [row.cells[0].text for row in table.rows][-2:] == ["SASRec [1]", "GRU [2]"]
    assert [row.kind for row in table.rows][-2:] == ["reference", "reference"]
    assert table.rows[-2].cells[1].text == "0.9900" and table.rows[-2].cells[1].mark == ""
    assert "elsewhere" in table.notes[0] and "a paper" in table.notes[0] and "leave-one-out" in table.notes[0]
    best = [row.cells[0].text for row in table.rows if row.cells[1].mark == "best"]
    assert best == ["cpt"]


def test_slices_are_grouped_with_their_users_first_ones_first(tmp_path):
    results, manifest = made(tmp_path)
    first, more = slice_tables("Books", results, manifest)
    groups = list(dict.fromkeys(c.group for c in first.columns if c.group))
    assert groups == ["Warm (640 users)", "Cold (160 users)", "Never seen (40 users)", "Untied (560 users)"]
    assert {c.group for c in more.columns if c.group} == {"History 1-5 (320 users)", "Unseen users (240 users)"}
    cpt = next(row for row in first.rows if row.cells[0].text == "cpt")
    assert cpt.cells[1].text == f"{0.24 * 1.1:.4f}" and cpt.cells[1].mark == "best"
    assert "random" not in [row.cells[0].text for row in first.rows]  # no slices of it were measured


def test_a_method_that_lacks_a_slice_gets_dashes():
    def result(name, slices):
        part = {s: {"full": Measured(users=5, values={"hr@10": 0.1, "hr@100": 0.2, "nll": 5.0})} for s in slices}
        return Result(name=name, kind=name, sets={"Books": SetResult(users=9, protocols={}, slices=part)})

    (table,) = slice_tables("Books", [result("a", ["warm", "cold"]), result("b", ["cold"])], {"sets": {}})
    texts = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in table.rows}
    assert texts == {"a": ["0.1000", "0.2000", "5.000"] * 2, "b": ["–"] * 3 + ["0.1000", "0.2000", "5.000"]}


def test_small_values_in_words():
    value = {
        "k_core": {"electronics14_1m": 5},
        "k_core_rounds": 2,
        "peak": 0.004,
        "tokens": 7654321,
        "none": None,
        "list": [0.5, "a"],
    }
    assert (
        describe(value)
        == "k core electronics14_1m 5, k core rounds 2, peak 0.004, tokens 7,654,321, none –, list 0.5, a"
    )
    assert describe({}) == describe([]) == describe(None) == "–"


def test_forgetting_has_a_row_for_each_language_model() -> None:
    text = {"file": "general.txt", "perplexity": 21.5, "bits_per_byte": 1.25, "tokens": 1234}
    before, after = (Result(name=name, kind="checkpoint", sets={}, general_text=text) for name in ("untrained", "cpt"))
    table = forgetting_table([Result(name="popularity", kind="popularity", sets={}), before, after])
    assert table is not None and [row.cells[0].text for row in table.rows] == ["untrained", "cpt"]
    assert [cell.text for cell in table.rows[0].cells[1:]] == ["21.5", "1.25", "1,234"] and "general.txt" in table.title
    assert forgetting_table([Result(name="popularity", kind="popularity", sets={})]) is None
