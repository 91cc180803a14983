"""What one of two processes alone finds damaged is damaged for both: it is set aside and made again, or both stop with
one line."""

import json
from pathlib import Path

import pytest

from tests import road
from tests.processes import launched_together
from tests.train.test_processes import config_file

# A disk that loses what the second process writes into its first checkpoint. Its data lies in files of its own.
LOSING = """
import sys
from pathlib import Path
import jax
from cprec_jax import cli
from cprec_jax.train.checkpoint import Checkpoints

real = Checkpoints.save

def save(self, state, meta):
    real(self, state, meta)
    self.wait()
    if jax.process_index() == 1:
        for path in (self.directory / str(int(state.step)) / "params/ocdbt.process_1/d").iterdir():
            path.write_bytes(path.read_bytes()[:20])

Checkpoints.save = save
sys.exit(cli.main(sys.argv[1:]))
"""


def damage(checkpoint: Path, process: str) -> None:
    """Cut the data that a process wrote of the parameters."""
    files = [path for path in (checkpoint / "params").glob(f"ocdbt.process_{process}/d/*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:20])


@pytest.fixture
def place(tiny_rows: Path, tmp_path: Path) -> Path:
    for part in ("corpus", "rows"):
        (tmp_path / part).symlink_to(tiny_rows / part)
    return tmp_path


def arguments(place: Path) -> list[str]:
    config = {**road.config(train={"steps": 4, "checkpoint_every": 100, "milestones": [0.5]}), "mesh": {"fsdp": 4}}
    return ["train", config_file(place, config), f"--workdir={place}"]


@pytest.mark.slow
def test_damaged_steps_are_set_aside_and_made_again_bit_identically(place: Path) -> None:
    job = arguments(place)
    launched_together(job)
    run = place / "runs/cpt"
    before = json.loads((run / "manifest.json").read_text())
    damage(run / "checkpoints/4", "1")  # the last: made again in going on from the one before
    told = launched_together(job)
    assert all("checkpoints/4 is damaged" in one and "going on from step 2 of 4" in one for one in told), told
    damage(run / "checkpoints/2", "1")  # a milestone: replayed from the start
    told = launched_together(job)
    assert all("checkpoints/2 is damaged" in one and "checkpoints of steps 2 are missing" in one for one in told), told
    steps = {path.name for path in (run / "checkpoints").iterdir()}
    assert {"0", "2", "4", "2.damaged", "4.damaged"} <= steps
    assert json.loads((run / "manifest.json").read_text())["params_sha256"] == before["params_sha256"]
    assert "bit-identically" not in "".join(told)
    for step in (0, 2, 4):
        damage(run / f"checkpoints/{step}", "1")
    told = launched_together(job, status=2)
    for one in told:
        (line,) = [line for line in one.splitlines() if line.startswith("error: ")]
        assert "none of its checkpoints can be read" in line and "Traceback" not in one


@pytest.mark.slow
def test_both_stop_where_one_cannot_read_its_part_of_the_first_checkpoint(place: Path) -> None:
    script = place / "losing.py"
    script.write_text(LOSING)
    told = launched_together(arguments(place), status=2, by=str(script))
    for one in told:
        (line,) = [line for line in one.splitlines() if line.startswith("error: ")]
        assert "checkpoints/0: was saved, but cannot be read back as it was" in line and "Traceback" not in one
    assert "another process cannot read its part" in told[0]
    assert not (place / "runs/cpt/manifest.json").exists()
