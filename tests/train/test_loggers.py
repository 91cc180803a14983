"""Loggers: what each gets, what a resumed run writes again, and what is said of one that is not installed."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.errors import UserError
from cprec_jax.train.loggers.logger import LoggedRun
from cprec_jax.train.loggers.registry import open_loggers
from tests import road
from tests.run_jobs import train


def logged(directory: Path, first_step: int = 0) -> LoggedRun:
    return LoggedRun(directory=directory, first_step=first_step, name="cpt", facts={"seed": 3})


def write(names: tuple[str, ...], run: LoggedRun, steps: range) -> None:
    for logger in open_loggers(names, run):
        for step in steps:
            logger.write(step, {"loss": 9.0 - step}, 0.5 * step)
        logger.close()


def test_a_resumed_file_reads_like_an_unbroken_one(tmp_path: Path) -> None:
    write(("jsonl",), logged(tmp_path), range(1, 6))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "lo')
    write(("jsonl",), logged(tmp_path, first_step=3), range(4, 7))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"], line["seconds"]) for line in lines] == [
        (n, 9.0 - n, 0.5 * n) for n in range(1, 7)
    ]
    assert list(lines[0]) == ["step", "loss", "seconds", "time"]


def test_tensorboard_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(("tensorboard",), logged(tmp_path), range(1, 4))
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    (tag,) = [tag for tags in events.Tags().values() if isinstance(tags, list) for tag in tags]
    assert tag == "loss" and [event.step for event in events.Tensors(tag)] == [1, 2, 3]


class FakeWandb(types.ModuleType):
    """As much of `wandb` as is called; `calls` is what it was told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[Any] = []

    def init(self, **arguments: Any) -> Any:
        self.calls.append(arguments)
        told = lambda *values, **named: self.calls.append((*values, named) if named else values)  # noqa: E731
        return types.SimpleNamespace(define_metric=told, log=told, finish=told)


def test_a_resumed_run_goes_on_under_its_wandb_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    inits = []
    for first in (0, 2):
        fake = FakeWandb()
        monkeypatch.setitem(sys.modules, "wandb", fake)
        write(("wandb",), logged(tmp_path, first), range(first + 1, 4))
        inits.append(fake.calls[0])
        assert fake.calls[1:3] == [("step",), ("*", {"step_metric": "step"})]
        steps = range(first + 1, 4)
        assert fake.calls[3:] == [*(({"step": n, "loss": 9.0 - n, "seconds": 0.5 * n},) for n in steps), ()]
    assert inits[0] == inits[1] and inits[0]["resume"] == "allow" and inits[0]["dir"] == str(tmp_path)
    assert inits[0]["project"] == "cprec_jax" and inits[0]["config"] == {"seed": 3} and len(inits[0]["id"]) == 16


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, where requirements-wandb.txt is installed: without an account or the network."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write(("jsonl", "wandb"), logged(tmp_path), range(1, 4))
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = run.glob("*.wandb")
    assert file.stat().st_size > 200 and (tmp_path / "wandb-id.txt").read_text() in file.name


def test_one_that_is_not_installed_is_one_line(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"config.train.loggers: 'wandb' is not installed; run `pip install -r requirements-wandb.txt`"
    ):
        train(road.config(train={"loggers": ("wandb",)}), workdir)
    with pytest.raises(
        UserError, match=r"config.train.loggers\[1\]: 'wandbb' is not one of 'jsonl', 'tensorboard', 'wandb'"
    ):
        train(road.config(train={"loggers": ("jsonl", "wandbb")}), workdir)
