"""A run of two processes is the run of one: the same rows in the same order, the same dropout. It survives what happens
to either."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.attempts import read_attempts
from tests import processes, road
from tests.conftest import ROOT
from tests.processes import launched_together
from tests.train.test_trainer import HELD, curve, digest

CONFIG = road.config(train={"steps": 12, "micro_batches": 2, "milestones": [], "checkpoint_every": 3})


def config_file(workdir: Path, config: dict[str, Any], held_at: int | None = None) -> str:
    """held_at: the first process waits when it has logged that step, until there is a file `go`; `held` says that it
    does."""
    file = workdir / "config.py"
    touch = f"if step == {held_at}: Path({str(workdir / 'held')!r}).touch()"
    held = (
        ""
        if held_at is None
        else HELD.format(step=held_at, go=str(workdir / "go")).replace("    while", f"    {touch}\n    while")
    )
    file.write_text(
        f"import json\n{held}\ndef get_config():\n    return json.loads({json.dumps(json.dumps(config))})\n"
    )
    return f"--config={file}"


def losses(workdir: Path) -> dict[int, float]:
    lines = (workdir / "runs/cpt/metrics.jsonl").read_text().splitlines()
    assert [record["step"] for record in map(json.loads, lines)] == list(range(1, len(lines) + 1))  # one process writes
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


def start(workdir: Path, held_at: int | None = None, count: int = 2) -> subprocess.Popen[str]:
    arguments = ["train", config_file(workdir, CONFIG, held_at), f"--workdir={workdir}"]
    return processes.start(arguments, count, devices=2 // count)


def hold(workdir: Path, step: int) -> subprocess.Popen[str]:
    """A run of two processes that waits at a step."""
    parent = start(workdir, held_at=step)
    processes.wait_for(parent, workdir / "held")
    return parent


@pytest.fixture(scope="module")
def two(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that every other of two processes must equal."""
    workdir = tmp_path_factory.mktemp("two") / "road"
    shutil.copytree(tiny_rows, workdir)
    code, errors = processes.end(start(workdir))
    assert code == 0, errors
    return workdir


def test_two_processes_have_the_losses_of_one(two: Path, workdir: Path) -> None:
    """With dropout and micro-batches."""
    assert road.CONFIG["model"]["dropout"] > 0
    code, errors = processes.end(start(workdir, count=1))
    assert code == 0, errors
    assert len(losses(workdir)) == 12 and losses(two) == pytest.approx(losses(workdir), rel=1e-5)


def test_sigterm_to_one_saves_the_same_step_in_all_and_exits_with_75(two: Path, workdir: Path) -> None:
    parent = hold(workdir, 2)
    os.kill(processes.workers(parent)[1], signal.SIGTERM)
    (workdir / "go").touch()
    code, errors = processes.end(parent)
    assert code == 75 and errors.count("preempted: SIGTERM: saved step") == 1, errors
    code, errors = processes.end(start(workdir))
    assert code == 0 and "going on from step" in errors, errors
    assert (digest(workdir), curve(workdir)) == (digest(two), curve(two))


def test_when_one_is_killed_the_other_is_ended_and_the_same_command_goes_on(two: Path, workdir: Path) -> None:
    parent = hold(workdir, 5)
    os.kill(processes.workers(parent)[1], signal.SIGKILL)
    code, errors = processes.end(parent)
    assert code == 75, errors
    line = errors.splitlines()[-1]
    assert read_attempts(workdir / "runs/cpt")[0].why.startswith("process 2 of 2 died by signal 9 at step")
    assert line.startswith("process 2 of 2 died by signal 9 at step") and "the same command goes on from step 3" in line
    assert "Traceback" not in errors
    code, errors = processes.end(start(workdir))
    assert code == 0 and "going on from step 3 of 12" in errors, errors
    assert (digest(workdir), curve(workdir)) == (digest(two), curve(two))


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(two: Path, workdir: Path) -> None:
    """Two, then one with half the devices, then two: the same batches, and losses that differ by rounding alone."""
    for count, devices, step in ((2, 1, 2), (1, 1, 7)):
        parent = processes.start(
            ["train", config_file(workdir, CONFIG, held_at=step), f"--workdir={workdir}"], count, devices
        )
        processes.wait_for(parent, workdir / "held")
        parent.send_signal(signal.SIGTERM)
        time.sleep(1.0)  # a parent passes it on
        (workdir / "go").touch()
        code, errors = processes.end(parent)
        (workdir / "go").unlink()
        (workdir / "held").unlink()
        assert code == 75, errors
    code, errors = processes.end(start(workdir))
    assert code == 0 and "going on from step" in errors, errors
    assert losses(workdir) == pytest.approx(losses(two), rel=1e-5)
    attempts = read_attempts(workdir / "runs/cpt")
    assert [(one.processes, one.why) for one in attempts] == [(2, "SIGTERM"), (1, "SIGTERM"), (2, "done")]


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_the_near_tier_is_taken_where_all_have_it_whole(
    two: Path, workdir: Path, tmp_path: Path, damaged: bool
) -> None:
    """Saved every step there and every third durably; of the last one a process may have lost its part."""
    near = {**CONFIG["train"], "near": str(tmp_path / "near"), "near_every": 1}
    config = {**CONFIG, "train": near}

    def begin(held_at: int | None = None) -> subprocess.Popen[str]:
        return processes.start(["train", config_file(workdir, config, held_at), f"--workdir={workdir}"])

    parent = begin(held_at=6)  # which is durable, and not saved yet; 5 is near
    processes.wait_for(parent, workdir / "held")
    os.kill(processes.workers(parent)[0], signal.SIGKILL)
    code, errors = processes.end(parent)
    assert code == 75, errors
    if damaged:
        (part,) = (tmp_path / "near").glob("*/5/process-1-of-2")
        part.write_bytes(part.read_bytes()[:-1])
    code, errors = processes.end(begin())
    assert code == 0 and f"going on from step {4 if damaged else 5} of 12" in errors, errors
    assert (digest(workdir), curve(workdir)) == (digest(two), curve(two))
    assert not list((tmp_path / "near").glob("*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 4}, {"data": 2, "tensor": 2}, {"data": 1, "tensor": 4}])
def test_two_processes_train_as_one_on_any_mesh(tiny_rows: Path, tmp_path: Path, mesh: dict[str, int]) -> None:
    config = {**road.config(train={"steps": 4, "milestones": []}), "mesh": mesh}
    places = {}
    for name in ("one", "two"):
        places[name] = tmp_path / name
        places[name].mkdir()
        for part in ("corpus", "rows"):
            (places[name] / part).symlink_to(tiny_rows / part)
    arguments = {name: ["train", config_file(place, config), f"--workdir={place}"] for name, place in places.items()}
    subprocess.run([sys.executable, "launch.py", *arguments["one"]], cwd=ROOT, env=processes.environment(4), check=True)
    launched_together(arguments["two"])
    assert len(losses(places["one"])) == 4
    assert losses(places["two"]) == pytest.approx(losses(places["one"]), rel=1e-5)


@pytest.mark.slow
def test_processes_with_other_configs_are_refused_in_one_line(workdir: Path) -> None:
    """As on two hosts: each has a parent and a command of its own."""
    port = processes.free_port()
    arguments = [
        "launch.py",
        "train",
        config_file(workdir, CONFIG),
        f"--workdir={workdir}",
        f"--coordinator=127.0.0.1:{port}",
    ]
    arguments.append("--processes=2")
    more = [["--process=0"], ["--process=1", "--config.train.seed=1"]]
    both = [
        subprocess.Popen(
            [sys.executable, *arguments, *own],
            cwd=ROOT,
            env=processes.environment(1),
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in more
    ]
    for number, (code, errors) in enumerate(map(processes.end, both)):
        mistakes = [line for line in errors.splitlines() if "error: " in line]
        assert code == 2 and len(mistakes) == 2, errors
        assert f"[{number + 1}/2] error: config.train: differs between process 2 of 2" in mistakes[0] + mistakes[1]
