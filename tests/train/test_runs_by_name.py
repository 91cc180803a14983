"""Runs that start from runs: bit for bit what one unbroken run is, replayed where a start was not kept, made once
each."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.train.restore import restore_decoder
from tests import road
from tests import run_jobs as jobs

pytestmark = pytest.mark.slow  # whole runs, which are trained for it; CI runs them

ALL_STABLE = {"peak": 1e-3, "warmup": 0.25, "anneal": 0.0, "shape": "linear"}


def config(runs: dict[str, Any], **train: Any) -> dict[str, Any]:
    made = road.config(
        train={"steps": 8, "schedule": ALL_STABLE, "milestones": [], "checkpoint_every": 100, "log_every": 1, **train}
    )
    return {
        **made,
        "runs": runs,
        "export": None,
        "evaluate": {**made["evaluate"], "names": {"random": {"kind": "random"}}},
    }


def digest(workdir: Path, name: str) -> str:
    return json.loads((workdir / "runs" / name / "manifest.json").read_text())["params_sha256"]


def metrics(workdir: Path, name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def steps(workdir: Path, name: str) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "runs" / name / "checkpoints").iterdir() if path.name.isdigit())


def anneal(step: int, length: int, **more: Any) -> dict[str, Any]:
    return {"start": {"run": "stable", "step": step}, "train": {"steps": length, "schedule": {"anneal": 1.0}, **more}}


@pytest.fixture(scope="module")
def trained(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stable run, one that anneals from its step 6, and one unbroken run whose annealing begins there."""
    workdir = tmp_path_factory.mktemp("runs") / "road"
    shutil.copytree(tiny_rows, workdir)
    unbroken = {"train": {"steps": 10, "schedule": {"warmup": 0.2, "anneal": 0.4}}}
    jobs.run(
        config({"stable": {}, "short": anneal(6, 4), "unbroken": unbroken}), workdir, ["runs/short", "runs/unbroken"]
    )
    return workdir


def test_annealing_from_a_stable_step_is_one_unbroken_run(trained: Path) -> None:
    assert digest(trained, "short") == digest(trained, "unbroken")
    whole, end = metrics(trained, "unbroken"), metrics(trained, "short")
    for name in ("step", "loss", "lr", "grad_norm", "tokens"):
        assert [line[name] for line in end] == [line[name] for line in whole[6:]], name
    assert [line["loss"] for line in metrics(trained, "stable")[:6]] == [line["loss"] for line in whole[:6]]
    assert end[0]["seconds"] > metrics(trained, "stable")[5]["seconds"], "seconds are counted along the line"
    assert steps(trained, "stable") == [0, 6, 8] and steps(trained, "short") == [6, 10]


def test_a_start_that_was_not_saved_is_replayed_and_the_finished_run_stays(trained: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    before = json.loads((workdir / "runs/stable/manifest.json").read_text())
    lines = (workdir / "runs/stable/metrics.jsonl").read_text()
    shutil.rmtree(workdir / "runs/stable/checkpoints/6")
    shutil.rmtree(workdir / "runs/short")
    jobs.run(config({"stable": {}, "short": anneal(6, 4)}), workdir, ["runs/short"])
    assert digest(workdir, "short") == digest(trained, "short") and steps(workdir, "stable") == [0, 6, 8]
    after = json.loads((workdir / "runs/stable/manifest.json").read_text())
    assert {key: after[key] for key in ("step", "params_sha256", "made_from")} == {
        key: before[key] for key in ("step", "params_sha256", "made_from")
    }
    assert (workdir / "runs/stable/metrics.jsonl").read_text() == lines and not (
        workdir / "runs/stable.replaced"
    ).exists()


def test_another_mixture_begins_a_phase_of_its_own(trained: Path, tmp_path: Path) -> None:
    """What an unbroken run does with an annealing mixture."""
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    mixture = {"weights": {"Games": 5.0}}
    unbroken = {"train": {"steps": 10, "schedule": {"warmup": 0.2, "anneal": 0.4}, "anneal_mixture": mixture}}
    runs = {"stable": {}, "short": anneal(6, 4, mixture=mixture), "unbroken": unbroken}
    jobs.run(config(runs), workdir, ["runs/short", "runs/unbroken"])
    assert digest(workdir, "short") == digest(workdir, "unbroken") != digest(trained, "short")


def test_a_name_gives_parameters_alone_and_shapes_may_differ_between_runs(trained: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    runs = {
        "stable": {},
        "next": {"start": "stable", "train": {"steps": 2}},
        "wide": {"model": {"hidden_size": 64}, "train": {"steps": 1}},
    }
    jobs.run(config(runs), workdir, ["runs/next", "runs/wide"])
    first, last = restore_decoder(workdir / "runs/next", step=0), restore_decoder(workdir / "runs/stable")
    np.testing.assert_array_equal(first.params["final_norm"], last.params["final_norm"])
    assert metrics(workdir, "next")[0]["lr"] == pytest.approx(1e-3 / 1) and [
        line["step"] for line in metrics(workdir, "next")
    ] == [1, 2]
    assert restore_decoder(workdir / "runs/wide").decoder.config.hidden_size == 64


def test_nothing_goes_on_from_outside_the_stable_phase(trained: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    runs = {"stable": {}, "early": {"start": {"run": "stable", "step": 1}, "train": {"steps": 2}}}
    with pytest.raises(
        UserError, match=r"config.runs.early.start: step 1 of stable lies outside its stable phase, steps 2 to 8"
    ):
        jobs.run(config(runs), workdir, ["runs/early"])


def test_milestones_and_how_often_is_saved_are_inputs_of_nothing(trained: Path) -> None:
    changed = config({"stable": {}}, milestones=[0.5], checkpoint_every=3, keep=5, log_every=2)
    assert jobs.state(changed, trained, "runs/stable").word == "current"


def test_a_row_of_a_fraction_that_was_not_kept_is_replayed(trained: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    made = config({"stable": {}})
    made["evaluate"] |= {
        "names": {"half": {"run": "stable", "fraction": 0.5}},
        "max_users": 4,
        "protocols": ["full"],
        "temperature": 1.0,
    }
    jobs.run(made, workdir, ["results/half"])
    assert json.loads((workdir / "results/half/results.json").read_text())["step"] == 4
    assert steps(workdir, "stable") == [0, 4, 6, 8]


def test_a_run_may_stand_for_the_checkpoint_that_validation_users_like_best(trained: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    made = config(
        {"stable": {}, "chosen": {"start": "stable", "train": {"steps": 4, "milestones": [0.25, 0.5]}, "select": "nll"}}
    )
    made["evaluate"] |= {
        "sets": ["Books"],
        "validation_users": 6,
        "max_users": 4,
        "protocols": ["full"],
        "names": {"row": {"run": "chosen"}},
    }
    jobs.run(made, workdir, ["results/row"])
    manifest = json.loads((workdir / "runs/chosen/manifest.json").read_text())
    nll = {int(step): value for step, value in manifest["nll_by_step"].items()}
    assert set(nll) == {1, 2, 3, 4} and nll[manifest["selected"]] == min(nll.values())
    assert json.loads((workdir / "results/row/results.json").read_text())["step"] == manifest["selected"]
    assert restore_decoder(workdir / "runs/chosen").step == manifest["selected"]
    assert jobs.state(made, workdir, "runs/chosen").word == "current"
