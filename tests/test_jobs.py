"""The whole road on a tiny world: every job, in order, twice."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cprec_jax.errors import UserError
from tests import road
from tests import run_jobs as jobs


@pytest.fixture(scope="module")
def done(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("jobs") / "road"
    shutil.copytree(tiny_rows, workdir)
    jobs.run(road.CONFIG, workdir)
    return workdir


def test_results_have_the_schema_and_agree_with_their_ranks(done: Path) -> None:
    for name in road.CONFIG["evaluate"]["names"]:
        result = json.loads((done / "results" / name / "results.json").read_text())
        ranks = pq.read_table(done / "results" / name / "ranks.parquet").to_pylist()
        assert result["name"] == name and result["protocol_version"] == 1 and len(result["corpus_hash"]) == 64
        assert set(result["sets"]) == {"Books", "Games", "Garden"}
        for set_name, values in result["sets"].items():
            own = [row for row in ranks if row["set"] == set_name and row["protocol"] == "full"]
            assert len(own) == values["users"] == 40
            assert values["protocols"]["full"]["nll"] == pytest.approx(np.mean([row["nll"] for row in own]), rel=1e-5)
            if not any(row["n_tied"] for row in own):
                assert values["protocols"]["full"]["hr@10"] == pytest.approx(
                    np.mean([row["n_better"] < 10 for row in own])
                )
            low, high = values["protocols"]["full"]["ci95"]["mrr"]
            assert low <= values["protocols"]["full"]["mrr"] <= high


def test_random_is_the_closed_form_and_the_oracle_the_best(done: Path) -> None:
    results = {
        name: json.loads((done / "results" / name / "results.json").read_text())["sets"]
        for name in ("random", "oracle", "cpt")
    }
    for set_name in ("Books", "Games", "Garden"):
        assert results["random"][set_name]["protocols"]["u20"]["hr@10"] == pytest.approx(0.5)
        assert results["random"][set_name]["protocols"]["full_unmasked"]["hr@10"] == pytest.approx(10 / 60)
        best = results["oracle"][set_name]["protocols"]["full"]["nll"]
        assert best < results["cpt"][set_name]["protocols"]["full"]["nll"]
        assert best < results["random"][set_name]["protocols"]["full"]["nll"]


def test_nothing_is_done_twice(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.run(road.CONFIG, done)
    told = capsys.readouterr().err
    assert "is made now" not in told and told.count("is up to date") == 4 + len(road.CONFIG["evaluate"]["names"])


def test_only_what_is_out_of_date_is_done(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(done, workdir)
    card = workdir / "export" / "cpt" / "README.md"
    before = card.read_text()
    shutil.rmtree(workdir / "results" / "popularity")
    jobs.export(road.config(train={"schedule": {"peak": 0.5}, "seed": 7}, pack={"row_length": 128}), workdir)
    row = next(line for line in before.splitlines() if line.startswith("| popularity |"))
    without = card.read_text()
    # the run's config, not this one
    assert row not in without and without.partition("## Results")[0] == before.partition("## Results")[0]
    assert "warm-up 3 %, stable 87 %, annealing 10 %, peak 0.001" in without and "row length: 64 tokens" in without
    capsys.readouterr()
    jobs.run(road.CONFIG, workdir)
    told = capsys.readouterr().err
    assert (
        told.count("is made now") == 2 and "results/popularity is made now" in told and "export/cpt is made now" in told
    )
    assert card.read_text() == before


def test_the_export_is_a_hugging_face_model(done: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    directory = done / "export" / "cpt"
    assert AutoConfig.from_pretrained(directory).model_type == "llama"
    assert AutoTokenizer.from_pretrained(directory)("Books:\n").input_ids
    assert (directory / "README.md").read_text().startswith("---")


def test_an_exported_model_can_be_evaluated_again(done: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(done, workdir)
    export = str(workdir / "export" / "cpt")
    jobs.evaluate(road.config(evaluate={"names": {"back": {"kind": "hf", "path": export}}}), workdir)
    there, back = (
        json.loads((workdir / "results" / name / "results.json").read_text())["sets"] for name in ("cpt", "back")
    )
    for set_name in there:
        full = there[set_name]["protocols"]["full"]
        del full["ci95"], back[set_name]["protocols"]["full"]["ci95"]
        assert back[set_name]["protocols"]["full"] == pytest.approx(full)


def test_the_report_shows_every_method(done: Path) -> None:
    text = (done / "report" / "report.md").read_text()
    assert all(name in text for name in road.CONFIG["evaluate"]["names"])


@pytest.mark.parametrize("rule", ["sum", "mean"])
def test_the_other_rules_rank_the_whole_catalogue(done: Path, tmp_path: Path, rule: str) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(done, workdir)
    jobs.evaluate(
        road.config(
            evaluate={"names": {"by": {"kind": "checkpoint"}}, "rule": rule, "max_users": 5, "sets": ["Books"]}
        ),
        workdir,
    )
    result = json.loads((workdir / "results/by/results.json").read_text())
    assert result["scoring_rule"] == rule and result["sets"]["Books"]["users"] == 5


def test_evaluating_an_unknown_name_or_set(done: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'cpt'"):
        jobs.evaluate(road.CONFIG, done, ["ctp"])
    with pytest.raises(UserError, match="did you mean 'Books'"):
        jobs.evaluate(road.config(evaluate={"sets": ["Book"]}), done)


def test_a_corpus_of_other_settings_is_named(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus").symlink_to(done / "corpus")
    jobs.evaluate(road.CONFIG, tmp_path, ["random"])
    assert "other settings" not in capsys.readouterr().err
    jobs.evaluate({**road.CONFIG, "corpus": {**road.CONFIG["corpus"], "seed": 77}}, tmp_path, ["random"])
    assert "was made with other settings than config.corpus has" in capsys.readouterr().err


def test_an_oracle_is_only_for_synthetic_sets(done: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(done, workdir)
    manifest = json.loads((workdir / "corpus/manifest.json").read_text())
    manifest["files"] = {name: record for name, record in manifest["files"].items() if not name.startswith("oracle/")}
    (workdir / "corpus/manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(workdir / "cells")
    with pytest.raises(UserError, match="holds no oracle"):
        jobs.evaluate(road.CONFIG, workdir, ["oracle"])


@pytest.mark.slow
def test_several_seeds_are_trained_where_evaluation_looks_for_them(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(done, workdir)
    config = road.config(evaluate={"seeds": 2, "names": {"cpt": {"kind": "checkpoint"}}, "max_users": 10})
    jobs.run(config, workdir)
    told = capsys.readouterr().err
    assert "runs/cpt is up to date" in told and "runs/cpt.seed-1 is made now" in told
    runs = [workdir / "runs" / "cpt", workdir / "runs" / "cpt.seed-1"]
    seeds = [json.loads((path / "config.json").read_text())["made_from"]["settings"]["train.seed"] for path in runs]
    params = [json.loads((path / "manifest.json").read_text())["params_sha256"] for path in runs]
    assert (
        seeds == [0, 1]
        and params[0] == json.loads((done / "runs/cpt/manifest.json").read_text())["params_sha256"] != params[1]
    )
    result = json.loads((workdir / "results" / "cpt" / "results.json").read_text())
    by_seed = result["sets"]["Books"]["protocols"]["full"]["by_seed"]["nll"]
    assert result["seeds"] == [0, 1] and by_seed[0] != by_seed[1]
    jobs.run(config, workdir)
    assert "is made now" not in capsys.readouterr().err
