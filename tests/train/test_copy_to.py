"""A run whose work directory is gone goes on from its copies and ends with the same bits; no copy ends no training."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cprec_jax import cli
from cprec_jax.errors import UserError
from cprec_jax.train.copies import CONTENTS, Copies
from tests import processes, road
from tests.run_jobs import train
from tests.train.bucket import ADDRESS, Bucket, stand_in
from tests.train.test_trainer import HELD, curve, digest

pytestmark = pytest.mark.slow  # whole runs, which are trained for it; CI runs them

CONFIG = road.config(train={"copy_to": ADDRESS})
COPIES = "bucket/copies/cpt"


@pytest.fixture(scope="module")
def done(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the work directory `road` of a run that is done, and its `copies`."""
    folder = tmp_path_factory.mktemp("done")
    shutil.copytree(tiny_rows, folder / "road")
    with stand_in(folder / "bucket") as bucket:
        train(CONFIG, folder / "road")
        shutil.copytree(bucket.folder, folder / "copies")
    return folder


@pytest.fixture
def bucket(done: Path, tmp_path: Path) -> Iterator[Bucket]:
    """With the copies of `done`."""
    with stand_in(tmp_path / "bucket") as bucket:
        shutil.copytree(done / "copies", bucket.folder)
        yield bucket


def whole(bucket: Bucket) -> list[int]:
    return sorted(int(path.parent.name) for path in (bucket.folder / COPIES).glob(f"*/{CONTENTS}"))


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "runs/cpt/checkpoints").glob("*"))


@pytest.mark.parametrize("lost", [[], [12], [12, 10]])
def test_a_lost_run_goes_on_from_its_newest_whole_copy(
    lost: list[int], done: Path, bucket: Bucket, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert whole(bucket) == saved(done / "road") == [0, 6, 10, 12]
    for step in lost:  # as a kill in the middle of it leaves a copy
        (bucket.folder / COPIES / str(step) / CONTENTS).unlink()
    train(CONFIG, workdir)
    told = capsys.readouterr().err
    newest = max({0, 6, 10, 12} - set(lost))
    assert f"{newest} are brought back from {ADDRESS}/cpt; {workdir / 'runs/cpt'} has none" in told
    assert f"going on from step {newest} of 12" in told and "warning" not in told
    assert (digest(workdir), curve(workdir)) == (digest(done / "road"), curve(done / "road"))
    assert whole(bucket) == saved(workdir) == [0, 6, 10, 12]


def test_no_copies_change_nothing(done: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither where there are none, nor where none can be made."""

    def refuse(path: str) -> None:
        if not path.endswith("cpt"):  # the listing at the start
            raise OSError(f"{path}: no route to host")

    with stand_in(workdir / "bucket") as bucket:
        bucket.refuses = refuse
        train(CONFIG, workdir)
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("warning")]) == 1
    assert lines[-1].startswith("train: done, 12 steps") and "; its last copy was not made (OSError: " in lines[-1]
    assert (digest(workdir), curve(workdir)) == (digest(done / "road"), curve(done / "road"))


def test_copies_of_another_run_are_refused_before_anything_is_written(bucket: Bucket, workdir: Path) -> None:
    with pytest.raises(UserError, match=r"with other inputs \(config.train.seed was 0, is 1\); give config.train"):
        train(road.config(train={"copy_to": ADDRESS, "seed": 1}), workdir)
    assert not (workdir / "runs").exists() and whole(bucket) == [0, 6, 10, 12]


def test_a_finished_run_is_copied_by_the_same_command(done: Path, tmp_path: Path) -> None:
    """To an address that it did not have before; a path serves as well."""
    shutil.copytree(done / "road", tmp_path / "road")
    train(road.config(train={"copy_to": str(tmp_path / "mounted")}), tmp_path / "road")
    assert sorted(path.parent.name for path in (tmp_path / "mounted/cpt").glob(f"*/{CONTENTS}")) == [
        "0",
        "10",
        "12",
        "6",
    ]


def test_frozen_leaves_are_copied_once_and_come_back(tmp_path: Path, workdir: Path, tiny_rows: Path) -> None:
    config = road.config(train={"copy_to": ADDRESS, "frozen": ["embed*"], "steps": 2, "milestones": []})
    with stand_in(tmp_path / "bucket") as bucket:
        train(config, workdir)
        before = digest(workdir)
        frozen = f"{ADDRESS}/cpt/frozen/{CONTENTS}"
        assert bucket.written.count(frozen) == 1
        shutil.rmtree(workdir / "runs")
        (bucket.folder / COPIES / "2" / CONTENTS).unlink()
        train(config, workdir)
        assert bucket.written.count(frozen) == 1 and digest(workdir) == before


def file_of(workdir: Path, config: dict[str, Any], held: str = "") -> str:
    file = workdir / "config.py"
    file.write_text(
        f"import json\n{held}\ndef get_config():\n    return json.loads({json.dumps(json.dumps(config))})\n"
    )
    return f"--config={file}"


def test_without_the_package_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config, workdir = file_of(tmp_path, road.CONFIG), f"--workdir={tmp_path / 'w'}"
    for job in ("run", "train", "status"):
        assert cli.main([job, config, workdir, f"--config.train.copy_to={ADDRESS}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            f"error: config.train.copy_to={ADDRESS}: needs gcsfs, which is not installed; run `pip install -r "
            "requirements-gcs.txt`, or give a path on this machine"
        )
    assert not (tmp_path / "w/corpus").exists()


def test_two_processes_bring_it_back_together(done: Path, workdir: Path, tmp_path: Path) -> None:
    """One is killed, and the disk is lost."""
    train_section = {"copy_to": str(tmp_path / "mounted"), "checkpoint_every": 3, "milestones": []}
    config = road.config(train=train_section)

    def begin(held: str = "") -> "subprocess.Popen[str]":
        return processes.start(["train", file_of(workdir, config, held), f"--workdir={workdir}"])

    code, errors = processes.end(begin())
    assert code == 0, errors
    before = digest(workdir), curve(workdir)
    shutil.rmtree(workdir / "runs")
    shutil.rmtree(tmp_path / "mounted")
    touch = f"if step == 8: Path({str(workdir / 'held')!r}).touch()"
    parent = begin(HELD.format(step=8, go=str(workdir / "go")).replace("    while", f"    {touch}\n    while"))
    processes.wait_for(parent, workdir / "held")
    copies, deadline = Copies(str(tmp_path / "mounted/cpt")), time.monotonic() + processes.PATIENCE
    while "6" not in copies.contents() and time.monotonic() < deadline:  # its list may be there and not yet written
        time.sleep(0.1)
    os.kill(processes.workers(parent)[0], signal.SIGKILL)
    code, errors = processes.end(parent)
    assert code == 75, errors
    shutil.rmtree(workdir / "runs")
    code, errors = processes.end(begin())
    assert code == 0 and "going on from step 6 of 12" in errors, errors
    assert (digest(workdir), curve(workdir)) == before
