"""What is said to be saved can be read: damaged steps are set aside and made again, and a disk that lies is found out
at once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.errors import DamagedCheckpoint, UserError, is_agreed
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.restore import restore_decoder
from tests import road
from tests import run_jobs as jobs
from tests.run_jobs import train

CONFIG = road.config(
    evaluate={"names": {"cpt": {"kind": "checkpoint"}, "half": {"kind": "checkpoint", "fraction": 0.5}}, "max_users": 5}
)
CONFIG["evaluate"] |= {"protocols": ["full"], "validation_users": 5}


@pytest.fixture(scope="module")
def finished(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 0, 6, 10 and 12 of 12."""
    workdir = tmp_path_factory.mktemp("finished") / "road"
    shutil.copytree(tiny_rows, workdir)
    train(CONFIG, workdir)
    return workdir


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "road")
    return tmp_path / "road"


def digest(workdir: Path) -> str:
    return json.loads((workdir / "runs/cpt/manifest.json").read_text())["params_sha256"]


def checkpoints(workdir: Path) -> Path:
    return workdir / "runs/cpt/checkpoints"


def damage(workdir: Path, step: int) -> None:
    for path in (checkpoints(workdir) / str(step) / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:20])


def same_parameters(one: Path, other: Path, step: int) -> bool:
    import jax
    import numpy as np

    a, b = (restore_decoder(path / "runs/cpt", step=step).params for path in (one, other))
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


@pytest.mark.parametrize("steps", [(10, 12), (0, 6)])
def test_damaged_steps_are_set_aside_and_made_again_bit_identically(
    finished: Path, copy: Path, steps: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for step in steps:
        damage(copy, step)
    train(CONFIG, copy)
    told = capsys.readouterr().err
    names = {path.name for path in checkpoints(copy).iterdir() if path.is_dir()}
    for step in steps:
        assert f"checkpoints/{step} is damaged" in told and f"{step}.damaged" in names
        if step != 10:  # of no use any more where the two newest and the milestones are kept
            assert str(step) in names and same_parameters(finished, copy, step)
    assert digest(copy) == digest(finished) and "bit-identically" not in told


def test_without_a_whole_one_training_stops_and_loses_nothing(copy: Path) -> None:
    for step in (0, 6, 10, 12):
        damage(copy, step)
    before = sorted(path.name for path in checkpoints(copy).iterdir())
    for _ in range(2):
        with pytest.raises(UserError, match=r"none of its checkpoints can be read \(0, 10, 12, 6\)") as caught:
            train(CONFIG, copy)
        assert is_agreed(caught.value)
    assert sorted(path.name for path in checkpoints(copy).iterdir()) == before
    for step in (0, 6, 10, 12):
        (checkpoints(copy) / str(step)).rename(checkpoints(copy) / f"{step}.damaged")
    with pytest.raises(UserError, match=r"none of its checkpoints can be read \(0\.damaged") as caught:
        train(CONFIG, copy)
    assert not is_agreed(caught.value), "each process looks by itself, so another may see something else"


@pytest.mark.parametrize(
    ("job", "gone"), [(jobs.evaluate, True), (jobs.export, False)], ids=["evaluate, removed", "export, damaged"]
)
def test_evaluate_and_export_name_the_whole_steps_and_run_makes_the_lost_one_again(
    finished: Path, copy: Path, job: Any, gone: bool
) -> None:
    if gone:
        shutil.rmtree(checkpoints(copy) / "12")
    else:
        damage(copy, 12)
    with pytest.raises(
        DamagedCheckpoint, match=r"(whole are the steps|there are) \[?0, 6, 10\]?.*`launch.py train`"
    ) as caught:
        job(CONFIG, copy)
    assert "\n" not in str(caught.value)
    assert not (copy / "results").exists() and not list((copy / "export").glob("*"))
    jobs.run(CONFIG, copy)
    assert json.loads((copy / "results/cpt/results.json").read_text())["step"] == 12
    assert json.loads((copy / "export/cpt/manifest.json").read_text())["step"] == 12
    assert digest(copy) == digest(finished)


def test_a_damaged_milestone_is_made_again_by_run(finished: Path, copy: Path) -> None:
    damage(copy, 6)
    jobs.run(CONFIG, copy)
    assert json.loads((copy / "results/half/results.json").read_text())["step"] == 6
    assert same_parameters(finished, copy, 6)


@pytest.mark.parametrize("step", [0, 12])
def test_a_disk_that_gives_back_something_else(workdir: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The first and the last checkpoint are read back."""
    real = Checkpoints.save

    def save(self: Checkpoints, state: Any, meta: Any) -> None:
        other = state._replace if hasattr(state, "_replace") else state.replace
        changed = {**state.trained, "final_norm": state.trained["final_norm"] * 1.0000001}
        real(self, other(trained=changed) if int(state.step) == step else state, meta)

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(
        UserError, match=rf"checkpoints/{step}: was saved, but cannot be read back as it was \(params.*final_norm"
    ) as caught:
        train(CONFIG, workdir)
    assert is_agreed(caught.value), "all processes raise it, so none need be ended by the others"
    assert not (workdir / "runs/cpt/manifest.json").exists()


def test_an_optimizer_state_that_cannot_be_read_back(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Checkpoints.save

    def save(self: Checkpoints, state: Any, meta: Any) -> None:
        real(self, state, meta)
        shutil.rmtree(self.directory / str(int(state.step)) / "opt_state")

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(UserError, match=r"checkpoints/0: was saved, but cannot be read back"):
        train(CONFIG, workdir)
