"""The remote tier copies what is whole on the disk, removes what the disk no longer keeps, and ends no training."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.errors import UserError
from cprec_jax.train import remote_tier
from cprec_jax.train.copies import CONTENTS
from cprec_jax.train.remote_tier import RemoteTier
from tests.train.bucket import ADDRESS, Bucket, stand_in

MADE_FROM = {"inputs": {"rows/cpt": "1"}, "settings": {"train.seed": 0}}


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    with stand_in(tmp_path / "bucket") as bucket:
        yield bucket


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "w/runs/cpt"


def tier(run: Path, made_from: dict[str, Any] = MADE_FROM) -> RemoteTier:
    made = remote_tier.remote_tier(ADDRESS, run.parents[1], run, made_from, lambda recorded: differences(recorded))
    assert made is not None
    return made


def differences(recorded: Any) -> list[str]:
    return [] if recorded["settings"] == MADE_FROM["settings"] else ["config.train.seed was 1, is 0"]


def checkpoint(run: Path, step: int | str) -> None:
    (run / f"checkpoints/{step}/params").mkdir(parents=True)
    (run / f"checkpoints/{step}/params/data").write_text(f"of {step}")


def copied(bucket: Bucket, whole: bool = True) -> list[str]:
    folders = (bucket.folder / "bucket/copies/cpt").glob("*")
    return sorted(path.name for path in folders if not whole or (path / CONTENTS).exists())


def finish(remote: RemoteTier) -> None:
    remote.finish(lambda: False)


def refuse(path: str) -> None:
    raise OSError(f"{path}: no route to host")


def test_the_bucket_holds_what_the_disk_keeps(bucket: Bucket, run: Path) -> None:
    remote = tier(run)
    for step, removed in ((0, None), (5, None), (10, None), (15, 5)):  # the newest two stay, and the first
        checkpoint(run, step)
        if removed is not None:
            shutil.rmtree(run / f"checkpoints/{removed}")
        remote.save(step)
        finish(remote)
    assert remote.failure is None and copied(bucket, whole=False) == ["0", "10", "15"]


def test_a_checkpoint_that_is_still_written_is_waited_for(bucket: Bucket, run: Path) -> None:
    remote = tier(run)
    remote.save(5)
    time.sleep(0.05)
    assert copied(bucket, whole=False) == []
    checkpoint(run, 5)
    deadline = time.monotonic() + 60
    while copied(bucket) != ["5"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert copied(bucket) == ["5"]
    finish(remote)


def test_one_that_is_removed_meanwhile_leaves_nothing(
    bucket: Bucket, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = tier(run)
    checkpoint(run, 5)
    bucket.refuses = lambda path: shutil.rmtree(run / "checkpoints/5", ignore_errors=True)
    finish(remote)
    assert remote.failure is None and copied(bucket, whole=False) == [] and capsys.readouterr().err == ""


def test_what_fails_is_said_once_and_tried_again(bucket: Bucket, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remote = tier(run)
    bucket.refuses = lambda path: refuse(path) if path.endswith("data") else None
    for step in (5, 10):
        checkpoint(run, step)
        remote.save(step)
        finish(remote)
    assert remote.failure is not None and "no route to host" in remote.failure
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {ADDRESS}/cpt: cannot be written, and is tried again with the next checkpoint (")
    bucket.refuses = lambda path: None
    finish(remote)
    assert remote.failure is None and copied(bucket) == ["10", "5"]


def test_after_a_signal_the_last_copy_has_some_seconds(
    bucket: Bucket, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_tier, "STOPPING_S", 0.1)
    remote, go = tier(run), threading.Event()
    bucket.refuses = lambda path: assert_set(go)
    checkpoint(run, 5)
    remote.finish(lambda: True)
    assert remote.failure is not None and "after SIGTERM" in remote.failure and copied(bucket) == []
    go.set()
    finish(remote)
    assert remote.failure is None and copied(bucket) == ["5"]


def assert_set(go: threading.Event) -> None:
    assert go.wait(60)


def copies_of(run: Path, *steps: int | str) -> None:
    """Copies of a run whose directory is gone then."""
    for step in steps:
        checkpoint(run, step)
    (run / "metrics.jsonl").write_text("1\n2\n")
    (run / "config.json").write_text("{}")
    finish(tier(run))
    shutil.rmtree(run)
    run.mkdir()


def start(run: Path) -> None:
    remote = tier(run)
    remote.refuse_another_run()
    remote.bring_back()


def on_disk(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("*"))


def test_all_that_a_lost_directory_lacks_comes_back(
    bucket: Bucket, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies_of(run, 0, 10, 15, "frozen")
    capsys.readouterr()
    start(run)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"train: steps 0, 10, 15 are brought back from {ADDRESS}/cpt; {run} has none"
    assert on_disk(run) == ["0", "10", "15", "frozen"]
    assert (run / "checkpoints/15/params/data").read_text() == "of 15"
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "metrics.jsonl"]  # which describes itself
    start(run)
    assert capsys.readouterr().err == ""


def test_an_older_directory_gets_what_is_newer_and_keeps_longer_logs(
    bucket: Bucket, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies_of(run, 0, 10)
    checkpoint(run, 0)
    (run / "metrics.jsonl").write_text("1\n2\n3\n")
    start(run)
    told = capsys.readouterr().err
    assert f"step 10 is brought back from {ADDRESS}/cpt; the newest of {run} is step 0" in told
    assert on_disk(run) == ["0", "10"] and (run / "metrics.jsonl").read_text() == "1\n2\n3\n"


def test_a_newer_directory_is_left_alone(bucket: Bucket, run: Path) -> None:
    copies_of(run, 0, 10)
    checkpoint(run, 12)
    start(run)
    assert on_disk(run) == ["12"]


@pytest.mark.parametrize("damage", ["no list", "cut", "no frozen leaves"])
def test_a_damaged_copy_is_not_used(damage: str, bucket: Bucket, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copies_of(run, 0, 10, "frozen")
    capsys.readouterr()
    objects = bucket.folder / "bucket/copies/cpt"
    if damage == "cut":
        (objects / "10/checkpoints/10/params/data").write_text("of")
    else:
        (objects / ("10" if damage == "no list" else "frozen") / CONTENTS).unlink()
    start(run)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert on_disk(run) == ([] if damage == "no frozen leaves" else ["0", "frozen"])
    assert len(warnings) == {"no list": 0, "cut": 1, "no frozen leaves": 2}[damage]
    assert not (run / remote_tier.TEMPORARY).exists()


def test_copies_of_another_run_are_refused_and_left_alone(bucket: Bucket, run: Path) -> None:
    copies_of(run, 10)
    list_ = bucket.folder / "bucket/copies/cpt/10" / CONTENTS
    before = json.loads(list_.read_text())
    for changed, why in (({"settings": {"train.seed": 1}}, "seed was 1, is 0"), ({"inputs": {}}, "from other rows")):
        list_.write_text(json.dumps({**before, "made_from": {**MADE_FROM, **changed}}))
        with pytest.raises(UserError, match=f"10 was copied from a run with other inputs .*{why}") as refused:
            start(run)
        assert len(str(refused.value).splitlines()) == 1
    checkpoint(run, 12)
    remote = tier(run)  # as if it could not be looked at before
    finish(remote)
    assert remote.failure is not None and "other inputs" in remote.failure and copied(bucket) == ["10"]


def test_an_address_that_cannot_be_read_is_refused_unless_there_is_something_to_go_on_from(
    bucket: Bucket, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies_of(run, 10)
    bucket.refuses = refuse
    with pytest.raises(UserError, match=r"cannot be read \(OSError: .*no route to host\); mend config.train.copy_to"):
        start(run)
    capsys.readouterr()
    checkpoint(run, 5)
    start(run)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {ADDRESS}/cpt: cannot be read (")


def test_points_of_a_grid_have_copies_of_their_own(bucket: Bucket, tmp_path: Path) -> None:
    run = tmp_path / "w/runs/.cpt.grid/1"
    checkpoint(run, 5)
    remote = remote_tier.remote_tier(ADDRESS, tmp_path / "w", run, MADE_FROM, differences)
    assert remote is not None
    finish(remote)
    assert (bucket.folder / "bucket/copies/.cpt.grid/1/5" / CONTENTS).exists()
    assert remote_tier.remote_tier(None, tmp_path / "w", run, MADE_FROM, differences) is None
