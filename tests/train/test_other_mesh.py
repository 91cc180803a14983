"""A run goes on with another mesh: what it reads back is, bit for bit, what the mesh before it saved."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.train.checkpoint import Checkpoints
from tests import processes, road
from tests.conftest import ROOT

# Before the config is read: note the bits of each state that a loop begins with and that is saved, as they lie on the
# devices of that process, and ask to stop at a step as a preemption does.
NOTES = """
import json
import os
import signal

from cprec_jax.train import trainer
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.fingerprint import parameters_sha256
from cprec_jax.train.loggers import jsonl


def note(event, state):
    bits = {{name: parameters_sha256(getattr(state, name)) for name in ("trained", "opt_state")}}
    devices = max(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state.trained))
    spread = any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.trained))
    line = {{"event": event, "step": int(state.step), "bits": bits, "devices": devices, "spread": spread}}
    with open({notes!r}, "a") as file:
        file.write(json.dumps(line) + "\\n")


def noted_loop(state, *rest, loop=trainer.train_loop, **more):
    note("begins", state)
    return loop(state, *rest, **more)


def noted_save(self, state, meta, save=Checkpoints.save):
    note("saved", state)
    save(self, state, meta)


def stopping_write(self, step, values, seconds, write=jsonl.Jsonl.write):
    write(self, step, values, seconds)
    if step == {stop_at}:
        os.kill(os.getpid(), signal.SIGTERM)


trainer.train_loop, Checkpoints.save, jsonl.Jsonl.write = noted_loop, noted_save, stopping_write
"""


def attempt(workdir: Path, devices: int, mesh: dict[str, int], stop_at: int) -> tuple[int, list[dict[str, Any]]]:
    """Train with so many devices until the end, or until step `stop_at` was logged; the exit code, and what was noted
    of the states."""
    notes = workdir / "notes.jsonl"
    notes.unlink(missing_ok=True)
    config = {**road.config(train={"global_batch": 8, "milestones": []}), "mesh": mesh}
    file = workdir / "config.py"
    file.write_text(
        f"import jax\n{NOTES.format(notes=str(notes), stop_at=stop_at)}\n"
        f"def get_config():\n    return json.loads({json.dumps(json.dumps(config))})\n"
    )
    done = subprocess.run(
        [sys.executable, "launch.py", "train", f"--config={file}", f"--workdir={workdir}"],
        cwd=ROOT,
        env=processes.environment(devices),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode in (0, 75), done.stderr
    return done.returncode, [json.loads(line) for line in notes.read_text().splitlines()]


@pytest.mark.slow
def test_eight_devices_then_two_by_four_then_one(workdir: Path) -> None:
    """Moments too, and parameters that were whole on every device, then in four parts, then on one device."""
    meshes: list[tuple[int, dict[str, int], int]] = [
        (8, {"data": 8}, 3),
        (8, {"data": 2, "fsdp": 4}, 7),
        (1, {"data": 1}, 99),
    ]
    saved: dict[str, Any] | None = None
    for devices, mesh, stop_at in meshes:
        code, events = attempt(workdir, devices, mesh, stop_at)
        assert code == (0 if stop_at == 99 else 75)
        begun = next(event for event in events if event["event"] == "begins")
        assert begun["devices"] == devices and begun["spread"] == ("fsdp" in mesh)
        assert begun["step"] == (0 if saved is None else saved["step"])
        if saved is not None:
            assert begun["bits"] == saved["bits"]
        saved = [event for event in events if event["event"] == "saved"][-1]
        assert saved["step"] > begun["step"]
    lines = [json.loads(line) for line in (workdir / "runs/cpt/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    checkpoints = Checkpoints(workdir / "runs/cpt/checkpoints", read_only=True)
    assert checkpoints.steps()[-1] == 12
    checkpoints.close()
