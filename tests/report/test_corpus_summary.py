"""The corpus's tables."""

from cprec_jax.report.corpus_summary import corpus_tables, loss_notes
from tests.report import workdirs


def texts(table):
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_domains_steps_times_and_rejects_are_shown():
    tables = {table.title: table for table in corpus_tables(workdirs.manifest({"Books": 1800, "Garden": 120}))}
    assert texts(tables["Domains"])[1] == [
        "Garden",
        "downstream",
        "synthetic",
        "time",
        "300",
        "1,984",
        "14,935",
        "120",
        "120",
        "3",
    ]
    steps = tables["Interactions left after each step"]
    assert [c.name for c in steps.columns][1:] == [
        "read",
        "without exact duplicates",
        "training period",
        "after k-core",
    ]
    assert texts(steps)[0] == ["Books", "24,745", "24,101", "19,782", "14,935"]
    assert texts(tables["Split times (UTC)"]) == [["synthetic", "2021-07-02 16:46:00", "2021-08-07 23:35:20"]]
    assert texts(tables["Rejected or changed"]) == [["item without a title", "items.tsv: line 7: <b>B00|x</b>", "12"]]


def test_a_sparse_manifest_leaves_tables_out():
    tables = corpus_tables({"corpus_hash": "x", "sets": {"Books": {}}})
    assert [table.title for table in tables] == ["Domains"]
    assert texts(tables[0]) == [["Books"] + ["–"] * 9]


def test_what_was_lost_is_a_note_above_a_hundredth_and_a_row_always():
    small = {"n": 4, "share": 0.008, "lost": True, "example": "a.csv: line 7: x", "cause": ""}
    large = {"n": 376, "share": 0.783, "lost": True, "example": "item 0090", "cause": "leading zeros"}
    folded = {"n": 8, "share": 0.017, "lost": False, "example": "", "cause": ""}
    interactions = {
        "read": 480,
        "kept": 100,
        "lost_share": 0.79,
        "reasons": {"bad line": small, "unknown item": large, "repeat": folded},
    }
    items = {"read": 30, "kept": 30, "lost_share": 0.0, "reasons": {}}
    manifest = {
        "corpus_hash": "x",
        "sets": {"Books": {}},
        "losses": {"Books": {"interactions": interactions, "items": items}},
    }
    (note,) = loss_notes(manifest)
    assert note == (
        "Warning: Books: 100 of 480 interactions kept, 30 of 30 items kept; lost 376 interactions (78.3%): unknown "
        "item "
        "(first item 0090; leading zeros); kept but folded 8 interactions (1.7%): repeat."
    )
    table = next(table for table in corpus_tables(manifest) if table.title == "Read and kept")
    assert [row[-2:] for row in texts(table)] == [["480", "100"], ["30", "30"]]
    assert texts(table)[0][2].startswith("bad line: 4 (0.8%); unknown item: 376 (78.3%)")
    interactions["reasons"] = {"bad line": small}
    assert loss_notes(manifest) == [] == loss_notes({"sets": {}})
