"""The reproducibility card of a work directory that the jobs themselves made."""

import json
from importlib import metadata
from pathlib import Path

import pytest

from cprec_jax.artefact import read_json
from cprec_jax.environment import command, environment
from tests import run_jobs as jobs
from tests.report import workdirs
from tests.run_jobs import report


def test_it_says_how_every_row_was_made(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["launch.py", "evaluate", "--workdir=a b"])
    names = {"popularity": {"kind": "popularity"}, "text": {"kind": "text_knn"}}
    section = {"names": names, "sets": ["Books"], "protocols": ["full"], "bootstrap": 0}
    jobs.evaluate({"evaluate": section}, workdir)
    report({"evaluate": section, "report": {"title": "Demo"}}, workdir)
    found, text = (
        json.loads((workdir / "report" / "card.json").read_text()),
        (workdir / "report" / "card.md").read_text(),
    )
    (place,) = found["environments"]
    assert place["rows"] == ["popularity", "text"] and place["versions"]["jax"] == metadata.version("jax")
    assert place["command"] == "python launch.py evaluate '--workdir=a b'" and place["command"] in text
    manifest = read_json(workdir / "corpus" / "manifest.json", "prepare")
    assert found["data"]["counts"] == manifest["counts"] and found["data"]["times"] == manifest["times"]
    row, recorded = (
        found["rows"]["text"],
        read_json(workdir / "results" / "text" / "results.json", "evaluate")["sets"]["Books"],
    )
    assert (
        row["chosen"]["Books"]["setting"] == recorded["setting"]
        and row["chosen"]["Books"]["tried"] == recorded["tried"]
    )
    assert recorded["setting"] in text and f"{len(recorded['tried'])} tried" in text
    assert row["settings"]["evaluate.text_knn.validation_users"] == 2000, "the grid it was chosen from"
    assert row["inputs_hash"] == read_json(workdir / "results" / "text" / "manifest.json", "evaluate")["inputs_hash"]
    assert manifest["corpus_hash"] in text and "2021" in text  # a split time


def test_files_of_the_data_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir = workdirs.make_workdir(tmp_path, {"Books": 800})
    path = workdir / "corpus" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sources"]["Books"]["files"] = {
        "interactions": {"path": "/home/someone/Books/inter.tsv.gz", "sha256": "ab" * 32}
    }
    path.write_text(json.dumps(manifest))
    run = workdir / "runs" / "cpt"
    (run / "config.json").write_text(json.dumps({"train": {"seed": 7}, "model": {"hidden_size": 64}}))
    (run / "manifest.json").write_text(json.dumps({"step": 300, "params_sha256": "cd" * 32}))
    report(workdirs.config(), workdir)
    text = (workdir / "report" / "card.md").read_text()
    assert "Books/inter.tsv.gz" in text and "ab" * 32 in text and "/home/someone" not in text
    runs = json.loads((workdir / "report" / "card.json").read_text())["runs"]["cpt"]
    assert runs["steps"] == 300 and runs["tokens"] == 300 * 2048 and runs["hours"] == pytest.approx(30 / 3600)
    assert "cd" * 32 in text and "seed 7" in text and "614,400" in text


def test_the_environment_is_recorded_as_it_is() -> None:
    found = environment()
    assert (
        found["machine"]["devices"].endswith("cpu")
        and found["machine"]["cores"] >= 1
        and found["versions"]["python"].startswith("3.")
    )
    assert found["command"] == "", "pytest is no command that makes a result again"
    assert command(["/x/launch.py", "run"]) == "python /x/launch.py run"
