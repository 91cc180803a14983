"""The corpus's tables."""

from cprec_jax.report.corpus_summary import corpus_tables
from tests.report import workdirs


def texts(table):
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_domains_steps_times_and_rejects_are_shown():
    tables = {table.title: table for table in corpus_tables(workdirs.manifest({"Books": 1800, "Garden": 120}))}
    assert texts(tables["Domains"])[1] == ["Garden", "downstream", "synthetic", "time", "300", "1,984", "14,935", "120", "120", "3"]
    steps = tables["Interactions left after each step"]
    assert [c.name for c in steps.columns][1:] == ["read", "without exact duplicates", "training period", "after k-core"]
    assert texts(steps)[0] == ["Books", "24,745", "24,101", "19,782", "14,935"]
    assert texts(tables["Split times (UTC)"]) == [["synthetic", "2021-07-02 16:46:00", "2021-08-07 23:35:20"]]
    assert texts(tables["Rejected or changed"]) == [["item without a title", "items.tsv: line 7: <b>B00|x</b>", "12"]]


def test_a_sparse_manifest_leaves_tables_out():
    tables = corpus_tables({"corpus_hash": "x", "sets": {"Books": {}}})
    assert [table.title for table in tables] == ["Domains"]
    assert texts(tables[0]) == [["Books"] + ["–"] * 9]
