"""What `status` says of a work directory, and what `run` then does: in every state, for people and for schedulers."""

import copy
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.config.root import make_config
from cprec_jax.errors import UserError
from cprec_jax.jobs.status import status
from tests import road
from tests import run_jobs as jobs

NAMES = ("corpus", "rows/cpt", "runs/cpt", "results/cpt", "results/popularity", "export/cpt", "report")


def small() -> dict[str, Any]:
    made = road.config(
        train={"steps": 4}, evaluate={"names": {"popularity": {"kind": "popularity"}, "cpt": {"kind": "checkpoint"}}}
    )
    made["evaluate"] |= {"max_users": 8, "protocols": ["full"], "temperature": 1.0}
    return made


@pytest.fixture(scope="module")
def finished(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("status") / "road"
    shutil.copytree(tiny_rows, workdir)
    jobs.run(small(), workdir)
    return workdir


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "done")
    return tmp_path / "done"


def read(config: dict[str, Any], workdir: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Of each artefact: its state."""
    capsys.readouterr()
    status(make_config(config), workdir, as_json=True)
    return {line["name"]: line for line in json.loads(capsys.readouterr().out)["artefacts"]}


def words(lines: dict[str, Any]) -> dict[str, str]:
    return {name: line["state"] for name, line in lines.items()}


def would_make(lines: dict[str, Any]) -> list[str]:
    return [name for name, line in lines.items() if line["would_be_made"]]


def test_an_empty_work_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(small(), tmp_path / "new", capsys)
    assert words(found) == dict.fromkeys(NAMES, "missing") and sorted(would_make(found)) == sorted(NAMES)
    assert (
        found["runs/cpt"]["reason"] == "for rows/cpt"
        and found["corpus"]["size"] == 0
        and found["corpus"]["modified"] is None
    )
    assert not (tmp_path / "new").exists(), "it makes nothing"


def test_a_half_made_one(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("results/cpt", "export", "report", "runs/cpt/manifest.json"):
        path = done / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = read(small(), done, capsys)
    assert words(found) == {
        "corpus": "current",
        "rows/cpt": "current",
        "runs/cpt": "missing",
        "results/popularity": "current",
        "results/cpt": "missing",
        "export/cpt": "missing",
        "report": "missing",
    }
    assert found["runs/cpt"]["reason"] == "was stopped; goes on from step 4" and "results/popularity" not in would_make(
        found
    )


def test_a_finished_one(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(small(), done, capsys)
    assert words(found) == dict.fromkeys(NAMES, "current") and would_make(found) == ["report"]
    assert all(line["size"] > 0 and time.time() - line["modified"] < 3600 for line in found.values())
    status(make_config(small()), done)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["artefact", "size", "age", "state"] and printed[1].split()[0] == "corpus"
    assert printed[-1] == "run would make nothing, and print report again"


def test_one_changed_key(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small()
    config["train"]["schedule"] = {"peak": 0.5}
    found = read(config, done, capsys)
    assert words(found) == {
        "corpus": "current",
        "rows/cpt": "current",
        "runs/cpt": "out of date",
        "results/popularity": "current",
        "results/cpt": "waits",
        "export/cpt": "waits",
        "report": "waits",
    }
    assert found["runs/cpt"]["reason"] == "config.train.schedule.peak was 0.001, is 0.5"
    assert found["results/cpt"]["reason"] == "for runs/cpt"


def test_writing_down_a_default_changes_nothing(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small()
    config["train"] |= {"seed": 0, "micro_batches": 1, "anneal_mixture": None}
    assert words(read(config, done, capsys)) == dict.fromkeys(NAMES, "current")


def test_a_damaged_file(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = done / "results/popularity/ranks.parquet"
    ranks.write_bytes(ranks.read_bytes()[:100])
    (done / "runs/cpt/config.json").write_text("{")
    found = read(small(), done, capsys)
    assert (
        found["results/popularity"]["state"] == "out of date"
        and "ranks.parquet has 100 bytes, not" in found["results/popularity"]["reason"]
    )
    assert found["runs/cpt"]["state"] == "out of date" and "damaged" in found["runs/cpt"]["reason"]


@pytest.mark.slow
def test_deleted_checkpoints_are_made_again_only_when_something_needs_them(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(done / "runs/cpt/checkpoints")
    found = read(small(), done, capsys)
    assert found["runs/cpt"]["state"] == "pruned" and "were deleted" in found["runs/cpt"]["reason"]
    assert words(found)["results/cpt"] == "current" and would_make(found) == ["report"]
    jobs.run(small(), done)
    assert not (done / "runs/cpt/checkpoints").exists()
    before = json.loads((done / "runs/cpt/manifest.json").read_text())["params_sha256"]
    results = (done / "results/cpt/manifest.json").read_text()
    shutil.rmtree(done / "export")
    assert would_make(read(small(), done, capsys)) == ["runs/cpt", "export/cpt", "report"]
    jobs.run(small(), done)
    assert json.loads((done / "runs/cpt/manifest.json").read_text())["params_sha256"] == before
    assert (done / "export/cpt/model.safetensors").is_file() and (
        done / "results/cpt/manifest.json"
    ).read_text() == results


@pytest.mark.slow
def test_run_sets_a_finished_run_aside_until_its_successor_is_done(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, replaced = small(), done / "runs/cpt.replaced"
    config["train"]["schedule"] = {"peak": 0.5}
    before = (done / "runs/cpt/manifest.json").read_text()
    with monkeypatch.context() as patch:
        patch.setattr("cprec_jax.train.trainer._loop", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            jobs.run(config, done)
        told = capsys.readouterr().err
        assert (
            "config.train.schedule.peak was 0.001, is 0.5" in told
            and "set aside as cpt.replaced until the new one is done" in told
        )
        assert (replaced / "manifest.json").read_text() == before
        config["train"]["schedule"] = {"peak": 0.25}
        with pytest.raises(KeyboardInterrupt):
            jobs.run(config, done)
    assert (replaced / "manifest.json").read_text() == before, "one that was stopped replaces none that is finished"
    jobs.run(config, done, ["runs/cpt"])
    assert not replaced.exists() and (done / "runs/cpt/manifest.json").read_text() != before
    assert json.loads((done / "runs/cpt/config.json").read_text())["train"]["schedule"] == {"peak": 0.25}


def test_run_only_makes_what_is_named_and_what_that_needs(tiny_rows: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_rows, tmp_path / "road")
    jobs.run(small(), tmp_path / "road", ["results/popularity"])
    assert sorted(path.name for path in (tmp_path / "road").iterdir() if not path.name.startswith(".")) == [
        "cells",
        "corpus",
        "results",
        "rows",
    ]
    with pytest.raises(UserError, match=r"--only=result/cpt: no such artefact; did you mean 'results/cpt'\?"):
        jobs.run(small(), tmp_path / "road", ["result/cpt"])


def test_every_path_of_the_config_is_looked_at_and_all_mistakes_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy.deepcopy(small())
    config["corpus"]["sources"][0] |= {
        "adapter": "table",
        "interactions": str(tmp_path / "a.tsv"),
        "items": str(tmp_path / "b.tsv"),
    }
    config["text"]["tokenizer"] = str(tmp_path / "no")
    config["pack"]["text"] = {"files": [str(tmp_path / "*.txt")]}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "mamba"}')
    config["model"]["init_from"] = str(tmp_path / "model")
    (tmp_path / "scores.csv").write_text("user_id,item,score\n")
    config["evaluate"]["names"] |= {
        "hf": {"kind": "hf", "path": "no such/model"},
        "file": {"kind": "scores", "path": str(tmp_path / "scores.csv")},
        "gone": {"kind": "scores", "path": str(tmp_path / "gone.parquet")},
        "elsewhere": {"kind": "checkpoint", "path": str(tmp_path / "other")},
    }
    config["evaluate"]["general_text"] = str(tmp_path / "held out.txt")
    with pytest.raises(UserError) as caught:
        status(make_config(config), tmp_path / "new", as_json=True)
    lines = str(caught.value).splitlines()
    assert json.loads(capsys.readouterr().out)["mistakes"] == lines
    for part in (
        "Books.interactions",
        "no: no such directory",
        "*.txt' matches no file",
        "mamba",
        "no such/model",
        "scores.csv",
        "gone.parquet",
    ):
        assert sum(part in line for line in lines) >= 1, part
    assert any("names.elsewhere.path" in line for line in lines) and any(
        "config.evaluate.general_text" in line for line in lines
    )
    with pytest.raises(UserError) as by_run:
        jobs.run(config, tmp_path / "new")
    assert str(by_run.value).splitlines() == lines and not (tmp_path / "new" / "corpus").exists()


def test_raw_files_are_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {"role": "pretrain", "interactions": str(tmp_path / "inter.tsv"), "items": str(tmp_path / "item.tsv")}
    (tmp_path / "inter.tsv").write_text(
        "user_id\titem_id\ttimestamp\n" + "".join(f"u{u}\ti{i}\t{u + i}\n" for u in range(30) for i in range(5))
    )
    (tmp_path / "item.tsv").write_text("item_id\ttitle\n" + "".join(f"i{i}\tTitle {i}\n" for i in range(5)))
    config = {"corpus": {"sources": {"shop": source}, "k_core": 0, "candidates": {"protocols": []}}}
    jobs.prepare(config, tmp_path / "work")
    assert read(config, tmp_path / "work", capsys)["corpus"]["state"] == "current"
    known = tmp_path / "work" / ".file-hashes.json"
    hashes = json.loads(known.read_text())
    hashes[str(tmp_path / "inter.tsv")][-1] = "0" * 64  # what is written there is believed
    known.write_text(json.dumps(hashes))
    assert "shop.interactions changed" in read(config, tmp_path / "work", capsys)["corpus"]["reason"]
    (tmp_path / "inter.tsv").touch()  # another time: it is read again, and is what it was
    assert read(config, tmp_path / "work", capsys)["corpus"]["state"] == "current"


def test_losses_of_the_sources_are_in_the_json(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status(make_config(small()), done, as_json=True)
    losses = json.loads(capsys.readouterr().out)["losses"]
    assert set(losses) == {"Books", "Games", "Garden"} and losses["Books"]["interactions"]["kept"] > 0


def test_what_the_tokenizer_loses_is_in_the_json(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((done / "rows/cpt/manifest.json").read_text())
    assert manifest["tokenizer_losses"] == ""
    for said, found in (("", {}), ("2 titles (1.0%)", {"cpt": "2 titles (1.0%)"})):
        (done / "rows/cpt/manifest.json").write_text(json.dumps({**manifest, "tokenizer_losses": said}))
        status(make_config(small()), done, as_json=True)
        assert json.loads(capsys.readouterr().out)["tokenizer_losses"] == found
    (done / "rows/cpt/manifest.json").write_text("[]")
    status(make_config(small()), done, as_json=True)
    assert json.loads(capsys.readouterr().out)["tokenizer_losses"] == {}
