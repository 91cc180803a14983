"""The ledger of a run: every second of every attempt has one cause, and a killed attempt is in it, too."""

import json
from pathlib import Path
from typing import Any

import pytest

from cprec_jax import attempts
from cprec_jax.attempts import Attempt, Ledger, goodput, note_death, read_attempts
from cprec_jax.errors import Diverged, Preempted


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(attempts, "time", clock)
    return clock


def attempt(run: Path, clock: Clock, steps: list[int], killed: bool = False) -> None:
    """2 s of start, 1 s of restore, 5 s of compiling, 1 s a step, 0.5 s of saving after the last."""
    ledger = Ledger(run, processes=2, devices=8)
    clock.now += 2
    with ledger.phase("restore"):
        clock.now += 1
    for number, step in enumerate(steps):
        ledger.turn_to_step(step)
        if number == 0:
            with ledger.phase("compile"):
                clock.now += 5
        clock.now += 1
        ledger.done(step)
    with ledger.phase("save"):
        clock.now += 0.5
    ledger.write()
    if killed:
        clock.now += 0.25  # which nobody notes
    else:
        ledger.__exit__(None, None, None)


def test_every_second_has_a_cause_over_attempts_that_were_killed(tmp_path: Path, clock: Clock) -> None:
    attempt(tmp_path, clock, [1, 2, 3, 4], killed=True)
    note_death(tmp_path, "process 2 of 2 died by signal 9 at step 4", 4)
    clock.now += 10
    attempt(tmp_path, clock, [3, 4, 5])  # from a checkpoint of step 2
    first, second = read_attempts(tmp_path)
    assert (first.why, first.last_step, first.processes, first.devices) == (
        "process 2 of 2 died by signal 9 at step 4",
        4,
        2,
        8,
    )
    assert (second.why, second.last_step) == ("done", 5)
    found = goodput([first, second])
    expected = {
        "start": 4,
        "restore": 2,
        "compile": 10,
        "steps": 5,
        "again": 2,
        "save": 1,
        "data": 0,
        "between": 10,
        "unknown": 0.25,
    }
    assert {name: found.seconds[name] for name in expected} == pytest.approx(expected)
    assert found.total == pytest.approx(clock.now - 1000) and found.share == pytest.approx(5 / found.total)


def test_an_attempt_that_said_why_it_stopped_keeps_that(tmp_path: Path, clock: Clock) -> None:
    attempt(tmp_path, clock, [1])
    note_death(tmp_path, "process 1 of 2 died by signal 9", 1)
    assert read_attempts(tmp_path)[0].why == "done"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (Preempted("x"), "SIGTERM"),
        (Diverged("x"), "diverged"),
        (ZeroDivisionError("by\nzero"), "ZeroDivisionError: by zero"),
    ],
)
def test_why_it_stopped(tmp_path: Path, error: Exception, why: str) -> None:
    with pytest.raises(type(error)), Ledger(tmp_path):
        raise error
    assert read_attempts(tmp_path)[0].why == why


def test_a_line_that_a_kill_cut_off_is_skipped(tmp_path: Path, clock: Clock) -> None:
    attempt(tmp_path, clock, [1, 2], killed=True)
    path = tmp_path / "attempts.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"attempt": 1, "event": "so f')
    assert [one.last_step for one in read_attempts(tmp_path)] == [2]
    assert read_attempts(tmp_path / "nothing") == []


def test_steps_of_which_there_are_metrics_are_done_again(tmp_path: Path, clock: Clock) -> None:
    """Where an attempt was killed before it noted how far it was."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 7}\n{"step": 8')
    ledger = Ledger(tmp_path)
    for step in (7, 8):
        ledger.turn_to_step(step)
        clock.now += step
    ledger.write()
    (one,) = read_attempts(tmp_path)
    assert (one.seconds["again"], one.seconds["steps"]) == (7, 8)


def test_waiting_counts_only_where_the_devices_were_idle(clock: Clock) -> None:
    def slow() -> Any:
        for number in range(3):
            clock.now += 1
            yield number

    ledger = Ledger(None)
    ledger.turn_to_step(1)
    idle = iter([True, False, True])
    assert list(ledger.waited_for(slow(), lambda: next(idle))) == [0, 1, 2]
    ledger.write()
    assert (ledger._seconds["data"], ledger._seconds["steps"]) == (2, 1)


def test_nothing_is_written_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger(None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_no_attempt_has_no_goodput() -> None:
    assert goodput([]).share == 0.0
    assert goodput([Attempt(number=1, begin=1.0, end=1.0)]).share == 0.0


def test_lines_are_json_objects_with_an_event(tmp_path: Path, clock: Clock) -> None:
    attempt(tmp_path, clock, [1])
    events = [json.loads(line)["event"] for line in (tmp_path / "attempts.jsonl").read_text().splitlines()]
    assert events == ["begin", "so far", "stop"]
