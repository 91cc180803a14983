"""Validation inside a run: what is logged is what `select` says of the same step; no bit of the training changes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.attempts import read_attempts
from cprec_jax.config.root import make_config
from cprec_jax.errors import UserError
from cprec_jax.methods.select import Measure, values_by_step
from cprec_jax.train import trainer
from tests import processes, road
from tests.run_jobs import train
from tests.train.test_processes import config_file
from tests.train.test_trainer import digest

pytestmark = pytest.mark.slow

TRAIN = {"steps": 8, "milestones": [0.5], "checkpoint_every": 100, "log_every": 3}
EVERY = {**TRAIN, "validate_every": 4, "validate_users": 20}
VALUES = ("valid_nll", "valid_ndcg@10")


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "runs/cpt/metrics.jsonl").read_text().splitlines()]


def validated(workdir: Path) -> dict[int, list[float]]:
    """By step, where the line has the values."""
    return {line["step"]: [line[name] for name in VALUES] for line in lines(workdir) if VALUES[0] in line}


@pytest.fixture(scope="module")
def run(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of eight devices, validated at steps 4 and 8."""
    workdir = tmp_path_factory.mktemp("validated") / "road"
    shutil.copytree(tiny_rows, workdir)
    train(road.config(train=EVERY), workdir)
    return workdir


def test_a_line_has_the_values_by_which_checkpoints_are_selected(run: Path) -> None:
    assert [line["step"] for line in lines(run)] == [3, 4, 6, 8]
    config = make_config(road.config(train=EVERY))  # whose validation users are 20 per set, too
    measures: tuple[Measure, ...] = ("nll", "ndcg@10")
    selected = [values_by_step(config, run, run / "runs/cpt", measure) for measure in measures]
    assert set(selected[0]) == set(validated(run)) == {4, 8}
    for step, values in validated(run).items():
        assert values == pytest.approx([by_step[step] for by_step in selected], rel=1e-6)
    assert read_attempts(run / "runs/cpt")[0].seconds["validate"] > 0


def test_no_bit_of_the_training_changes(run: Path, workdir: Path) -> None:
    train(road.config(train=TRAIN), workdir)
    assert [line["step"] for line in lines(workdir)] == [3, 6, 8] and not validated(workdir)
    assert digest(workdir) == digest(run)
    losses = {line["step"]: line["loss"] for line in lines(workdir)}
    assert {line["step"]: line["loss"] for line in lines(run) if line["step"] in losses} == losses


def test_users_that_are_not_there_are_a_mistake_before_the_first_step(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cprec_jax.methods.probe.open_validation_sets", lambda *_: {})
    monkeypatch.setattr(trainer, "train", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(UserError, match=r"config.train.validate_every: no set of .* has validation users"):
        train(road.config(train=EVERY), workdir)


def test_two_processes_have_the_values_of_one(run: Path, workdir: Path) -> None:
    """Parameters over both processes are put together, and the first ranks."""
    config = {**road.config(train=EVERY), "mesh": {"data": 1, "fsdp": 2}}
    code, errors = processes.end(processes.start(["train", config_file(workdir, config), f"--workdir={workdir}"]))
    assert code == 0, errors
    assert errors.count("are ranked every 4 steps") == 1
    assert set(validated(workdir)) == {4, 8}
    for step, values in validated(workdir).items():
        assert values == pytest.approx(validated(run)[step], rel=1e-3)


def test_an_adapter_is_added_to_its_base(workdir: Path) -> None:
    """As in its checkpoints, but for the base, which a step reads in bfloat16."""
    low: dict[str, Any] = {
        "start": "cpt",
        "lora": {"rank": 4, "alpha": 8.0},
        "model": {"dtype": "bfloat16"},
        "train": {"steps": 4, "validate_every": 4},
    }
    config = {
        **road.config(train={**TRAIN, "validate_users": 20}, model={"dropout": 0.0}),
        "runs": {"cpt": {}, "low": low},
    }
    train(config, workdir)
    (line,) = [json.loads(text) for text in (workdir / "runs/low/metrics.jsonl").read_text().splitlines()][-1:]
    selected = values_by_step(make_config(config), workdir, workdir / "runs/low", "nll", steps=[4])
    assert line["step"] == 4 and line["valid_nll"] == pytest.approx(selected[4], rel=1e-2)
    assert not validated(workdir)
