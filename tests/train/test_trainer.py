"""A run survives what happens to runs: kills, preemption, damage, changed inputs, other devices."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.config.root import make_config
from cprec_jax.errors import Diverged, UserError
from cprec_jax.hf.save import save
from cprec_jax.text import tokenizer
from cprec_jax.train.batches import batches
from cprec_jax.train.prepared_run import most_segments
from cprec_jax.workdir import run_directory
from tests import road
from tests import run_jobs as jobs
from tests.conftest import ROOT
from tests.model.tiny import tiny
from tests.run_jobs import make_plan, train

PATIENCE = 900  # seconds for what takes twenty on an idle machine


def digest(workdir: Path) -> str:
    return json.loads((workdir / "runs/cpt/manifest.json").read_text())["params_sha256"]


def curve(workdir: Path) -> list[tuple[int, float, float]]:
    lines = (workdir / "runs/cpt/metrics.jsonl").read_text().splitlines()
    return [(r["step"], r["loss"], r["tokens"]) for r in map(json.loads, lines)]


@pytest.fixture(scope="module")
def unbroken(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that every other must equal."""
    workdir = tmp_path_factory.mktemp("unbroken") / "road"
    shutil.copytree(tiny_rows, workdir)
    train(road.CONFIG, workdir)
    return workdir


HELD = """
import time
from pathlib import Path
from cprec_jax.train.loggers import jsonl

def held(self, step, values, seconds, write=jsonl.Jsonl.write):
    write(self, step, values, seconds)
    while step == {step} and not Path({go!r}).exists():
        time.sleep(0.01)

jsonl.Jsonl.write = held
"""


def launch_train(workdir: Path, config: dict[str, Any], held_at: int | None = None) -> subprocess.Popen:
    """The job in a process of its own; `held_at`: it waits when it has logged that step, for whatever is done to it and
    `go`."""
    file = workdir / "config.py"
    held = "" if held_at is None else HELD.format(step=held_at, go=str(workdir / "go"))
    file.write_text(
        f"import json\n{held}\ndef get_config():\n    return json.loads({json.dumps(json.dumps(config))})\n"
    )
    command = [sys.executable, "launch.py", "train", f"--config={file}", f"--workdir={workdir}"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
    path = workdir / "runs/cpt/metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= step:
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"step {step} was not reached: {process.communicate()[1]}")


def test_all_steps_are_logged(unbroken: Path) -> None:
    found = curve(unbroken)
    assert [step for step, _, _ in found] == list(range(1, 13))
    assert found[-1][1] < found[0][1]
    assert sorted(int(p.name) for p in (unbroken / "runs/cpt/checkpoints").iterdir() if p.name.isdigit()) == [
        0,
        6,
        10,
        12,
    ]


def test_killed_in_the_middle_it_ends_with_the_same_bits(unbroken: Path, workdir: Path) -> None:
    process = launch_train(workdir, road.CONFIG, held_at=8)  # after the checkpoint of step 5 (and 6), before the end
    wait_for_step(process, workdir, 8)
    process.kill()
    process.wait()
    assert not (workdir / "runs/cpt/manifest.json").exists()
    again = launch_train(workdir, road.CONFIG)
    _, errors = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, errors
    assert "going on from step" in errors
    assert digest(workdir) == digest(unbroken)
    assert curve(workdir) == curve(unbroken)


def test_sigterm_saves_and_exits_with_75(unbroken: Path, workdir: Path) -> None:
    process = launch_train(workdir, road.CONFIG, held_at=2)
    wait_for_step(process, workdir, 2)
    process.send_signal(signal.SIGTERM)
    (workdir / "go").touch()
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, errors
    saved = re.search(r"SIGTERM: saved step (\d+) of 12", errors)
    assert saved is not None and (workdir / "runs/cpt/checkpoints" / saved[1]).is_dir()
    assert "run the same command to go on" in errors
    train(road.CONFIG, workdir)
    assert digest(workdir) == digest(unbroken)
    assert curve(workdir) == curve(unbroken)


def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(unbroken, workdir)
    (workdir / "runs/cpt/manifest.json").unlink()
    for path in (workdir / "runs/cpt/checkpoints/12/params").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:500])
    shutil.rmtree(workdir / "runs/cpt/checkpoints/10/opt_state")
    train(road.CONFIG, workdir)
    told = capsys.readouterr().err
    assert "checkpoints/12 is damaged" in told and "going on from step 6" in told
    assert digest(workdir) == digest(unbroken)


def test_another_config_or_other_rows_are_refused(unbroken: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(unbroken, workdir)
    with pytest.raises(UserError, match=r"other inputs \(config.train.seed was 0, is 1\)"):
        train(road.config(train={"seed": 1}), workdir)
    manifest = workdir / "rows/cpt/manifest.json"
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**record, "rows_hash": "0" * 64}))
    with pytest.raises(UserError, match=r"other inputs \(made from another rows/cpt\)"):
        train(road.CONFIG, workdir)
    shard = next((workdir / "rows/cpt").glob("*.array_record*"))
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(UserError, match="not the file that was packed"):
        train(road.CONFIG, workdir)


def test_rows_say_how_many_segments_they_hold() -> None:
    splits = {
        "a": {"rows": 3, "most_documents": 7},
        "b": {"rows": 0, "most_documents": 0},
        "c": {"rows": 1, "most_documents": 2},
    }
    assert most_segments(splits) == 8
    assert most_segments({**splits, "old": {"rows": 1}}) is None


def test_logging_more_often_is_the_same_run(unbroken: Path) -> None:
    inputs = jobs.made_from(road.CONFIG, unbroken, "runs/cpt")
    assert jobs.made_from(road.config(model={"attention_segments": 99}), unbroken, "runs/cpt") == inputs
    train(road.config(train={"log_every": 3}), unbroken)  # would be refused if it counted as another run


def test_further_seeds_have_directories_of_their_own(tmp_path: Path) -> None:
    def named(**sections: dict[str, Any]) -> list[str]:
        return [one.name for one in jobs.graph(road.config(**sections), tmp_path).of_job("train")]

    assert named() == ["runs/cpt"] and named(evaluate={"seeds": 3}) == [
        "runs/cpt",
        "runs/cpt.seed-1",
        "runs/cpt.seed-2",
    ]
    assert named(evaluate={"seeds": 3}, train={"seeds": 1}) == ["runs/cpt"]
    config = make_config(road.config(train={"seed": 4}))
    assert config.of_run("cpt", 2).train_section.seed == 6 and config.of_run("cpt").train_section.seed == 4
    assert (
        run_directory(tmp_path) == tmp_path / "runs/cpt" and run_directory(tmp_path, 1) == tmp_path / "runs/cpt.seed-1"
    )


def test_the_annealing_phase_inherits_the_mixture_and_the_budget(tiny_rows: Path) -> None:
    budget = 60  # rows
    mixture = {"data_tokens": budget * 64, "mixed_share": 0.2, "weights": {"Games": 3.0}}
    schedule = {"warmup": 0.0, "anneal": 0.25}
    changes = {"steps": 80, "schedule": schedule, "mixture": mixture, "anneal_mixture": {"mixed_share": 0.6}}
    plan = make_plan(road.config(train=changes), tiny_rows)
    assert plan.shares["Games"] / plan.shares["Books"] == pytest.approx(
        plan.anneal_shares["Games"] / plan.anneal_shares["Books"]
    )
    assert plan.shares["mixed"] == pytest.approx(0.2) and plan.anneal_shares["mixed"] == pytest.approx(0.6)
    names = sorted(plan.shares)
    seen = [
        {(names[source], row) for source, row in zip(batch["source"].tolist(), batch["row"].tolist(), strict=True)}
        for batch in batches(plan, 0, range(plan.train.global_batch))
    ]
    stable, annealing = set.union(*seen[:60]), set.union(*seen[60:])
    assert len(seen) == 80 and annealing <= stable and abs(len(stable) - budget) <= 1
    assert (
        make_plan(road.config(train={**changes, "anneal_mixture": {"data_tokens": None}}), tiny_rows).anneal_limits
        == {}
    )


@pytest.mark.parametrize("key", ["mixture", "anneal_mixture"])
def test_a_share_of_text_that_was_not_packed_is_refused(tiny_rows: Path, key: str) -> None:
    with pytest.raises(
        UserError, match=f"config.train.{key}.text_share: 0.1 is asked, but the rows hold no general text"
    ):
        make_plan(road.config(train={key: {"text_share": 0.1}}), tiny_rows)


def test_a_loss_that_is_not_finite_stops_the_run(workdir: Path) -> None:
    wild = road.config(train={"schedule": {"peak": 1e30, "warmup": 0.0}, "optimizer": {"clip_norm": 1e30}})
    with pytest.raises(Diverged, match=r"at step \d+, rows \(source:row\) \d:\d+.*last good checkpoint"):
        train(wild, workdir)


def test_a_base_model_that_does_not_fit_the_tokenizer(workdir: Path, shared_models: Path) -> None:
    small = road.config(model={"init_from": str(shared_models / "hf-stories260k")}, text={"vocab_size": 600})
    jobs.pack(small, workdir)
    with pytest.raises(UserError, match=r"has 600 tokens, but the embedding of .* has 512 rows"):
        train(small, workdir)


def test_a_base_model_with_another_tokenizer_is_warned_of(
    tiny_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decoder, params = tiny(vocab_size=448)
    tokenizer.train(["another title\n"] * 9, [1] * 9, 300, tmp_path / "other")
    for directory, warned in ((tiny_rows / "rows/cpt/tokenizer", False), (tmp_path / "other", True), (None, True)):
        base = tmp_path / f"base of {directory.name if directory else None}"
        save(base, params, decoder.config, directory, "card")
        make_plan({**road.CONFIG, "model": {"init_from": str(base)}}, tiny_rows)
        told = f"warning: the rows were not made with the tokenizer of {base}," in capsys.readouterr().err
        assert told == warned


def test_a_batch_that_does_not_divide_over_the_devices(workdir: Path) -> None:
    with pytest.raises(UserError, match="6 rows per micro-batch do not divide over 8 devices"):
        train(road.config(train={"global_batch": 6}), workdir)


def test_too_many_devices_asked_for(workdir: Path) -> None:
    with pytest.raises(UserError, match="does not fit 8 device"):
        train({**road.CONFIG, "mesh": {"data": 3}}, workdir)
