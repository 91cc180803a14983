"""The job: what it writes, prints and refuses; the page is safe and needs no network."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest

from cprec_jax.errors import UserError
from tests.report import workdirs
from tests.run_jobs import made_from, report

SETS = {"Books": 800, "Garden": 120}
HOSTILE = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Collects tags, attributes and text, as a browser would see them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def workdir(tmp_path):
    return workdirs.make_workdir(tmp_path / "work", SETS)


def test_writes_everything_and_prints_the_main_table(workdir, capsys):
    report(workdirs.config(), workdir)
    out = workdir / "report"
    names = {"hr10.png", "loss.png", "learning_rate.png", "tokens_per_second.png", "checkpoints.png", "cost.png"}
    assert {path.name for path in out.iterdir()} == names | {
        "report.md",
        "report.html",
        "tables.csv",
        "tables.tex",
        "card.md",
        "card.json",
        "manifest.json",
    }
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120
    assert re.search(r"^cpt +0\.2400\* +0\.1200\*", printed, re.M)
    assert re.search(r"^cpt-50 +0\.1700\+", printed, re.M)
    assert re.search(r"^oracle \(upper bound\) +0\.3300 ", printed, re.M)
    assert "73%" in printed and "too small" in printed
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| cpt | **0.2400** (0.2104–0.2696) |" in text
    assert all(f"]({name})" in text for name in names)
    assert "| cpt | 0.420 | 0.812 | -0.250 | 1.150 |" in text
    assert "items of the history not ranked" in text and "### Books, full unmasked" in text
    with open(out / "tables.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [
        r["value"]
        for r in rows
        if (r["set"], r["method"], r["slice"], r["metric"], r["protocol"]) == ("Books", "cpt", "", "hr@10", "full")
    ] == ["0.24"]


def test_the_page_is_self_contained(workdir):
    report(workdirs.config(), workdir)
    text = (workdir / "report" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    fetched = [
        value for name, value in page.attributes if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert fetched and all(value.startswith(("data:image/png;base64,", "#")) for value in fetched)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert page.tags.count("img") == 6
    without_images = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    assert not re.search(r"https?://|//\w|url\(|@import", without_images)
    anchors = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for value in fetched if value.startswith("#")} <= anchors


def test_hostile_names_are_text_everywhere(tmp_path, capsys):
    sets = {HOSTILE: 800, "a|b\"'&": 800}
    workdir = workdirs.make_workdir(tmp_path / "work", sets, {HOSTILE: 0.1, "cpt": 0.2})
    reference = {"source": HOSTILE, HOSTILE: {HOSTILE: {"hr@10": 0.1}}}
    report(workdirs.config(title=HOSTILE, reference=reference), workdir)
    text = (workdir / "report" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and "b" not in page.tags
    assert sum(HOSTILE in words for words in page.words) >= 5
    markdown = (workdir / "report" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown and "&lt;script&gt;" in markdown
    assert HOSTILE in capsys.readouterr().out  # plain text is plain


def test_reference_of_an_unknown_set_is_named_not_lost(workdir, capsys):
    report(workdirs.config(reference={"source": "x", "Boks": {"popularity": {"hr@10": 0.1}}}), workdir)
    assert "reference.Boks" in capsys.readouterr().err
    assert "reference.Boks" in (workdir / "report" / "report.md").read_text()


def test_missing_corpus_and_missing_results_name_their_jobs(tmp_path):
    with pytest.raises(UserError, match=r"launch\.py prepare"):
        report(workdirs.config(), tmp_path)
    workdirs.write(tmp_path / "corpus" / "manifest.json", workdirs.manifest(SETS))
    with pytest.raises(UserError, match=r"launch\.py evaluate"):
        report(workdirs.config(), tmp_path)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("content", [[], {"sets": {}}, {"corpus_hash": "x"}])
def test_a_damaged_corpus_manifest_is_named(workdir, content):
    workdirs.write(workdir / "corpus" / "manifest.json", content)
    with pytest.raises(UserError, match=r"manifest.json: damaged.*launch.py prepare"):
        report(workdirs.config(), workdir)


def test_a_damaged_result_leaves_the_old_report_alone(workdir):
    report(workdirs.config(), workdir)
    before = (workdir / "report" / "report.md").read_text()
    (workdir / "results" / "0" / "results.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        report(workdirs.config(), workdir)
    assert (workdir / "report" / "report.md").read_text() == before


def test_results_of_the_validation_split_have_a_report_of_their_own(workdir, capsys):
    report(workdirs.config(), workdir)
    before = (workdir / "report" / "report.md").read_text()
    config = workdirs.config() | {"evaluate": {"names": {"cpt": {"kind": "checkpoint"}}, "split": "valid"}}
    with pytest.raises(UserError, match=r"results-valid: holds no results; .*, or set config.evaluate.split to 'test'"):
        report(config, workdir)
    workdirs.write(
        workdir / "results-valid" / "cpt" / "results.json", workdirs.result("cpt", 0.123, SETS, split="valid")
    )
    report(config, workdir)
    assert "valid users" in (workdir / "report-valid" / "report.md").read_text() and "0.1230" in capsys.readouterr().out
    assert (workdir / "report" / "report.md").read_text() == before
    report(workdirs.config(), workdir)
    assert (workdir / "report" / "report.md").read_text() == before
    assert {path.split("/")[0] for path in made_from(config, workdir, "report-valid")["files"]} == {
        "results-valid",
        "runs",
        "corpus",
    }


def test_results_of_another_corpus_version_or_split_are_left_out_and_named(workdir, capsys):
    workdirs.write(
        workdir / "results" / "old" / "results.json", workdirs.result("old", 0.9, SETS, corpus_hash="ff" * 32)
    )
    workdirs.write(workdir / "results" / "v0" / "results.json", workdirs.result("v0", 0.9, SETS, protocol_version=0))
    workdirs.write(workdir / "results" / "tuned" / "results.json", workdirs.result("tuned", 0.9, SETS, split="valid"))
    summed = workdirs.result("summed", 0.9, SETS, kind="untrained", scoring_rule="sum")
    workdirs.write(workdir / "results" / "summed" / "results.json", summed)
    report(workdirs.config(), workdir)
    captured = capsys.readouterr()
    assert "tuned: left out, made with the split valid, not test" in captured.err
    assert "old: left out, made with another corpus" in captured.err
    assert "v0: left out, made with protocol version 0" in captured.err
    assert "summed: left out, made with the scoring rule sum, not trie" in captured.err
    assert "0.9000" not in captured.out


def test_results_with_and_without_the_history_in_the_ranking_are_named(workdir, capsys):
    other = workdirs.result("seen", 0.9, SETS)
    other["sets"]["Garden"]["history_masked"] = False
    workdirs.write(workdir / "results" / "seen" / "results.json", other)
    report(workdirs.config(), workdir)
    note = "Garden: items of the history are ranked by seen and by none of the others"
    assert capsys.readouterr().err.count(note) == 1 and note in (workdir / "report" / "report.md").read_text()


def test_pairs_that_a_file_of_scores_left_out_are_named(workdir, capsys):
    other = workdirs.result("theirs", 0.2, SETS, kind="scores")
    other["sets"]["Books"]["pairs_without_score"], other["sets"]["Garden"]["pairs_without_score"] = 1234, 0
    workdirs.write(workdir / "results" / "theirs" / "results.json", other)
    report(workdirs.config(), workdir)
    note = "Books: theirs has no score for 1,234 pairs of user and item"
    err = capsys.readouterr().err
    assert (
        err.count(note) == 1
        and err.count("has no score") == 1
        and note in (workdir / "report" / "report.md").read_text()
    )


def test_only_results_of_another_corpus_is_an_error(tmp_path):
    workdir = workdirs.make_workdir(tmp_path, SETS)
    manifest = {**workdirs.manifest(SETS), "corpus_hash": "ff" * 32}
    workdirs.write(workdir / "corpus" / "manifest.json", manifest)
    with pytest.raises(UserError, match="another corpus"):
        report(workdirs.config(), workdir)


def test_a_result_still_to_come_is_named(workdir, capsys):
    config = workdirs.config(order=("cpt", "sasrec"))
    config["evaluate"]["names"]["gru4rec"] = {"kind": "gru4rec"}
    report(config, workdir)
    told = capsys.readouterr().err
    assert "sasrec: no result yet; config.evaluate.names has none of that name" in told
    assert "gru4rec: no result yet; run `launch.py evaluate --only=gru4rec`" in told


def test_works_without_training_runs_and_without_an_evaluate_section(tmp_path, capsys):
    workdir = workdirs.make_workdir(tmp_path, SETS, {"popularity": 0.1}, steps=0)
    report({}, workdir)
    assert {path.name for path in (workdir / "report").glob("*.png")} == {"hr10.png"}
    assert "random" in capsys.readouterr().out


def test_equal_inputs_give_equal_reports_and_other_results_other_inputs(workdir):
    config = workdirs.config()
    report(config, workdir)
    first = {path.name: path.read_bytes() for path in (workdir / "report").iterdir()}
    before = made_from(config, workdir, "report")
    report(config, workdir)
    assert {path.name: path.read_bytes() for path in (workdir / "report").iterdir()} == first
    path = workdir / "results" / "0" / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cost": {}}))
    assert made_from(config, workdir, "report") != before


def test_a_source_that_lost_much_is_a_warning_on_the_first_screen(workdir):
    lost = {
        "n": 30,
        "share": 0.3,
        "lost": True,
        "example": f"item {HOSTILE}",
        "cause": "the file of items does not list it",
    }
    losses = {
        "interactions": {
            "read": 100,
            "kept": 70,
            "lost_share": 0.3,
            "reasons": {"interaction with an unknown item": lost},
        }
    }
    file = workdir / "corpus/manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "losses": {"Books": losses}}))
    report(workdirs.config(), workdir)
    start = (
        "Warning: Books: 70 of 100 interactions kept; lost 30 interactions (30.0%): interaction with an unknown item"
    )
    page = (workdir / "report/report.html").read_text(encoding="utf-8")
    head = page[page.index("<header>") : page.index("</header>")]
    assert (
        f'<p class="warning">{start} (first item ' in head
        and "the file of items does not list it" in head
        and HOSTILE not in head
    )
    text = (workdir / "report/report.md").read_text(encoding="utf-8")
    assert start in text[: text.index("\n## ")]
