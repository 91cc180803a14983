"""A worker process as its parent sees it: started in its own process group, with its output in files."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cprec_jax.launcher import step_file
from cprec_jax.launcher.step_file import Progress

PARENT = "CPREC_PARENT"  # in the environment of a worker: the process id of its parent
FAILS = "--- this process fails:"  # printed by a worker before the traceback of an unexpected error
# a line that only a traceback or a stack trace follows
FATAL = re.compile(rb"F\d{4} |E\d{4} .*coordination|" + FAILS.encode())
LOST_PEER = (  # messages of jax and its collectives after another process died
    b"JAX distributed service detected fatal errors",
    b"CoordinationService",
    b"Gloo all-reduce failed",
    b"Gloo all-gather failed",
    b"Connection reset by peer",
    b"Connection closed by peer",
    b"remote process exited",  # NCCL
)
_PR_SET_PDEATHSIG = 1


@dataclass(kw_only=True)
class Worker:
    """A worker of this host.

    process: its number, counted from 0. of: the number of processes. Both are None where jax determines them.
    log, out: the files of its standard error and standard output. steps: its step file.
    """

    running: subprocess.Popen[bytes]
    process: int | None
    of: int | None
    log: Path
    out: Path
    steps: Path
    _read: dict[Path, int] = field(default_factory=dict)
    _begun: int = 0

    @property
    def code(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self.running.poll()

    @property
    def progress(self) -> Progress:
        """What it last wrote into its step file."""
        noted, _ = step_file.read(self.steps)
        return noted

    @property
    def quiet_since(self) -> float:
        """When it last wrote its step file, in seconds since the epoch; 0.0 before the first time."""
        return step_file.read(self.steps)[1]

    @property
    def number(self) -> tuple[int, int] | None:
        """(process, number of processes), counted from 0; None before that is known."""
        process, of = self.process, self.of
        if process is None or of is None:
            noted = self.progress
            process, of = noted.process, noted.of
        return None if process is None or of is None else (process, of)

    @property
    def name(self) -> str:
        """For messages: `process 1 of 2`, counted from 1."""
        number = self.number
        return "the process" if number is None else f"process {number[0] + 1} of {number[1]}"

    def new_lines(self, path: Path) -> list[bytes]:
        """The new whole lines of `log` or `out`; after the process ended also an unterminated last line."""
        with open(path, "rb") as file:
            return self._lines(file, path)

    def _lines(self, file: BinaryIO, path: Path) -> list[bytes]:
        ended = self.code is not None
        file.seek(self._read.setdefault(path, 0))
        new = file.read()
        end = len(new) if ended else new.rfind(b"\n") + 1
        self._read[path] += end
        return new[:end].splitlines(keepends=True)

    def end_group(self, by: signal.Signals) -> None:
        """Send a signal to the worker's process group: to it and to the processes it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.running.pid, by)

    def ended_how(self) -> str:
        """For messages, after it ended: how, at which step, and where its log is."""
        code, step = self.code, self.progress.step
        assert code is not None
        at_step = "" if step is None else f" at step {step}"
        if self.lost_peer:
            return (
                f"{self.name} ended{at_step}, since another process is gone or no longer answers (its log: {self.log})"
            )
        how = f"died by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"{self.name} {how}{at_step} (its log: {self.log})"

    @property
    def lost_peer(self) -> bool:
        """Whether it ended because another process did: jax aborts then, or a collective fails."""
        if self.code not in (1, -signal.SIGABRT, 128 + signal.SIGABRT):
            return False
        with open(self.log, "rb") as file:
            file.seek(self._begun)
            text = file.read()
        return any(message in text for message in LOST_PEER)


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    name: str,
    directory: Path,
    process: int | None,
    of: int | None,
) -> Worker:
    """Start `launch.py` with these arguments.

    Standard error is appended to DIRECTORY/NAME.log, standard output goes to NAME.out, the step file is NAME.step.

    Args:
      process, of: see `Worker`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log, out, steps = (directory / f"{name}.{ending}" for ending in ("log", "out", "step"))
    steps.unlink(missing_ok=True)
    out.unlink(missing_ok=True)
    begun = log.stat().st_size if log.exists() else 0
    settings = {**environment, PARENT: str(os.getpid()), step_file.VARIABLE: str(steps.resolve())}
    with open(log, "ab") as errors, open(out, "ab") as output:
        running = subprocess.Popen(
            [sys.executable, *arguments],
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            process_group=0,
        )
    return Worker(
        running=running, process=process, of=of, log=log, out=out, steps=steps, _read={log: begun}, _begun=begun
    )


def is_worker() -> bool:
    """Whether this process was started by a parent."""
    return PARENT in os.environ


def follow_parent() -> None:
    """In a worker: receive SIGTERM when the parent dies (Linux), and handle it like any other SIGTERM.

    So no worker outlives its parent.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(os.environ[PARENT]):  # the parent died before the call
        sys.exit(1)
