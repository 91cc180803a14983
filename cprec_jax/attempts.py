"""The ledger of a run, RUN/attempts.jsonl: where the time of every attempt went, and why it stopped.

An attempt is one process, or group of processes, that works on the run from its start or newest checkpoint on. Each
line is a JSON object with the number of its `attempt`, the wall `time`, and an `event`: `begin`, then now and then `so
far`, whose seconds count from the attempt's begin, at the end `stop` with a reason, or `died`, written by the parent of
processes that could not say so themselves.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from cprec_jax.errors import Diverged, Preempted, one_line
from cprec_jax.workdir import ATTEMPTS, METRICS

T = TypeVar("T")

Phase = Literal["start", "restore", "compile", "steps", "again", "save", "data", "validate"]
PHASES: tuple[Phase, ...] = ("start", "restore", "compile", "steps", "again", "save", "data", "validate")
WRITE_S = 10.0  # between two lines that say how it goes


class Ledger:
    """Writes the lines of one attempt. At any time one phase is on, and time is counted for it alone.

    start: the model and its state; restore: reading checkpoints; compile: the first step's program; steps: steps that
    no earlier attempt had done; again: those that one had done and lost; save: checkpoints, and reading them back;
    data: rows that were not there in time; validate: ranking for validation users.
    """

    def __init__(self, run: Path | None, processes: int = 1, devices: int = 1):
        """run: its directory; None: nothing is written."""
        self._run, self._phase = run, "start"
        self._begun = self._since = self._written = time.monotonic()
        self._seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._step: int | None = None
        self._attempt, self._done_before = 1, 0
        if run is not None:
            before = read_attempts(run)
            self._attempt = 1 + max((attempt.number for attempt in before), default=0)
            self._done_before = max((attempt.last_step or 0 for attempt in before), default=0)
            self._done_before = max(self._done_before, _last_logged(run))
            self._write("begin", processes=processes, devices=devices)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count()
        self._write("stop", why=_reason(error), **self._so_far())

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count the block's time for a phase, and what follows for the one before."""
        before = self.turn_to(name)
        try:
            yield
        finally:
            self.turn_to(before)

    def turn_to(self, name: str) -> str:
        """Count for a phase from now on. Gives the one until now."""
        self._count()
        before, self._phase = self._phase, name
        return before

    def turn_to_step(self, step: int) -> None:
        """Count for a step from now on: a new one, or one that is done again."""
        self.turn_to("again" if step <= self._done_before else "steps")

    def waited_for(self, items: Iterable[T], is_idle: Callable[[], bool]) -> Iterator[T]:
        """The items of a stream. Waiting for one is `data` where the devices had nothing to do any more when it came:
        at most so much."""
        stream = iter(items)
        while True:
            self._count()
            try:
                item = next(stream)
            except StopIteration:
                return
            phase = self._phase
            if is_idle():
                self._phase = "data"
            self.turn_to(phase)
            yield item

    def done(self, step: int) -> None:
        """A step is finished, as its metrics are there."""
        self._step = step
        if time.monotonic() - self._written > WRITE_S:
            self.write()

    def write(self) -> None:
        """How it goes, so that it is known after any death."""
        self._count()
        self._write("so far", **self._so_far())

    def _so_far(self) -> dict[str, Any]:
        seconds = {name: round(value, 3) for name, value in self._seconds.items()}
        return {"step": self._step, "seconds": round(time.monotonic() - self._begun, 3), **seconds}

    def _count(self) -> None:
        now = time.monotonic()
        self._seconds[self._phase] += now - self._since
        self._since = now

    def _write(self, event: str, **facts: Any) -> None:
        self._written = time.monotonic()
        if self._run is not None:
            _append(self._run, {"attempt": self._attempt, "event": event, "time": round(time.time(), 3), **facts})


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "done"
    if isinstance(error, Preempted):
        return "SIGTERM"
    return "diverged" if isinstance(error, Diverged) else f"{type(error).__name__}: {one_line(error)[:200]}"


def _last_logged(run: Path) -> int:
    """The last step of which there are metrics; 0: of none."""
    try:
        lines = (run / METRICS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return int(json.loads(line)["step"])
    return 0


def _append(run: Path, record: Mapping[str, Any]) -> None:
    with open(run / ATTEMPTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def note_death(run: Path, why: str, step: int | None) -> None:
    """Note why the last attempt ended, if it did not say so itself. step: the last that it finished."""
    attempts = read_attempts(run)
    if attempts and not attempts[-1].why:
        _append(
            run,
            {"attempt": attempts[-1].number, "event": "died", "time": round(time.time(), 3), "why": why, "step": step},
        )


@dataclass
class Attempt:
    """One attempt as its lines tell. seconds: by phase. begin, end: wall time; why: "" where nobody could say."""

    number: int
    begin: float
    end: float
    processes: int = 1
    devices: int = 1
    last_step: int | None = None
    why: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


def read_attempts(run: Path) -> list[Attempt]:
    """The attempts of a run in order; lines that a kill cut off are skipped."""
    try:
        lines = (run / ATTEMPTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    attempts: dict[int, Attempt] = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            number, time_s = int(record["attempt"]), float(record["time"])
            attempt = attempts.setdefault(number, Attempt(number=number, begin=time_s, end=time_s))
            attempt.end = max(attempt.end, time_s)
            attempt.processes, attempt.devices = (
                record.get("processes", attempt.processes),
                record.get("devices", attempt.devices),
            )
            attempt.why = record.get("why", attempt.why)
            if (step := record.get("step")) is not None:
                attempt.last_step = max(int(step), attempt.last_step or 0)
            attempt.seconds |= {name: float(record[name]) for name in PHASES if name in record}
    return [attempts[number] for number in sorted(attempts)]


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """seconds: of the attempts and of the time between them, by what they went into; they add up to `total`.

    between: from the end of one attempt to the begin of the next, with what the program needs to start. unknown: from
    the last line of an attempt to its death, and what no phase counted.
    """

    attempts: int
    total: float
    seconds: Mapping[str, float]

    @property
    def share(self) -> float:
        """Of the time, what went into steps that count; 0 where there was none."""
        return self.seconds["steps"] / self.total if self.total else 0.0


def goodput(attempts: Sequence[Attempt]) -> Goodput:
    """Of all attempts of a run, from the first begin to the last end."""
    seconds = dict.fromkeys([*PHASES, "between", "unknown"], 0.0)
    for before, attempt in zip([None, *attempts], attempts, strict=False):
        counted = sum(attempt.seconds.values())
        for name, value in attempt.seconds.items():
            seconds[name] += value
        seconds["unknown"] += max(0.0, attempt.end - attempt.begin - counted)
        if before is not None:
            seconds["between"] += max(0.0, attempt.begin - before.end)
    return Goodput(attempts=len(attempts), total=sum(seconds.values()), seconds=seconds)
