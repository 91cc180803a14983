"""One small file per worker with its process number and last step, which its parent reports after any death."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

VARIABLE = "CPREC_STEP_FILE"  # an environment variable that the parent sets: the path
WIDTH = 200  # bytes of a record: each overwrites the whole record before it


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a worker has come.

    process: its number, counted from 0; None before it is known.
    of: the number of processes.
    step: the last finished step.
    first: the step it started from.
    saved: the last saved step, in the near tier or in the run's directory.
    training: whether another step follows.
    """

    process: int | None = None
    of: int | None = None
    step: int | None = None
    first: int | None = None
    saved: int | None = None
    training: bool = False


class _Writer:
    def __init__(self, path: str):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)  # open until the process ends
        self.progress = Progress()

    def write(self, progress: Progress) -> None:
        self.progress = progress
        os.pwrite(self._file, json.dumps(asdict(progress)).ljust(WIDTH).encode(), 0)


_writer: _Writer | None = None


def note(**facts: int | bool | None) -> None:
    """Update fields of this worker's `Progress`. Does nothing in a process without a parent."""
    global _writer
    if VARIABLE not in os.environ:
        return
    if _writer is None:
        _writer = _Writer(os.environ[VARIABLE])
    _writer.write(replace(_writer.progress, **facts))  # type: ignore[arg-type]  # the names of fields


def read(path: Path) -> tuple[Progress, float]:
    """A worker's last `Progress`, and its time in seconds since the epoch (0.0 where there is none)."""
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8"))), path.stat().st_mtime
    except (OSError, ValueError, TypeError):  # not there yet, or read during a write
        return Progress(), 0.0
