"""One small file per worker that says which process it is and how far it has come, so that its parent can say so after
any death."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

VARIABLE = "CPREC_STEP_FILE"  # set by the parent of workers
WIDTH = 200  # bytes: every record overwrites the one before it as a whole


@dataclass(frozen=True, kw_only=True)
class Progress:
    """process: counted from 0; None before it is known. step: the last finished one. first: the one that it
    goes on from. saved: the last one that was saved, wherever. training: whether the next one is on its way."""

    process: int | None = None
    of: int | None = None
    step: int | None = None
    first: int | None = None
    saved: int | None = None
    training: bool = False


class _Writer:
    def __init__(self, path: str):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)  # open as long as the process
        self.progress = Progress()

    def write(self, progress: Progress) -> None:
        self.progress = progress
        os.pwrite(self._file, json.dumps(asdict(progress)).ljust(WIDTH).encode(), 0)


_writer: _Writer | None = None


def note(**facts: int | bool | None) -> None:
    """Change fields of this worker's `Progress`. Does nothing in a process without a parent."""
    global _writer
    if VARIABLE not in os.environ:
        return
    if _writer is None:
        _writer = _Writer(os.environ[VARIABLE])
    _writer.write(replace(_writer.progress, **facts))  # type: ignore[arg-type]  # the names of fields


def read(path: Path) -> tuple[Progress, float]:
    """What a worker last noted, and when (seconds since the epoch; 0.0 where it noted nothing)."""
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8"))), path.stat().st_mtime
    except (OSError, ValueError, TypeError):  # not there yet, or read while it was written
        return Progress(), 0.0
