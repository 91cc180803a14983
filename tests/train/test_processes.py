"""A run of two processes is the run of one: the same rows in the same order, the same dropout."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import road
from tests.conftest import ROOT
from tests.processes import launched_together


def config_file(workdir: Path, config: dict[str, Any]) -> str:
    file = workdir / "config.py"
    file.write_text(f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(config))})\n")
    return f"--config={file}"


def losses(workdir: Path) -> dict[int, float]:
    lines = (workdir / "runs/cpt/metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 4}, {"data": 2, "tensor": 2}, {"data": 1, "tensor": 4}])
def test_two_processes_train_as_one(tiny_rows: Path, tmp_path: Path, mesh: dict[str, int]) -> None:
    config = {**road.config(train={"steps": 4, "milestones": []}), "mesh": mesh}
    places = {}
    for name in ("one", "two"):
        places[name] = tmp_path / name
        places[name].mkdir()
        for part in ("corpus", "rows"):
            (places[name] / part).symlink_to(tiny_rows / part)
    arguments = {name: ["train", config_file(place, config), f"--workdir={place}"] for name, place in places.items()}
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "launch.py", *arguments["one"]], cwd=ROOT, env=environment, check=True)
    launched_together(arguments["two"])
    assert len(losses(places["one"])) == 4
    assert losses(places["two"]) == pytest.approx(losses(places["one"]), rel=1e-5)
