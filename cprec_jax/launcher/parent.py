"""The parent: starts the workers of a job, shows the output of the first, forwards signals, and ends all when one dies.

Exit codes are those of `launch.py`: 75 (run the same command again) and 2 (a mistake of the user) are passed on.
"""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from cprec_jax import attempts
from cprec_jax import workdir as paths
from cprec_jax.errors import UserError
from cprec_jax.launcher import devices
from cprec_jax.launcher.worker import FATAL, Worker, is_worker, start
from cprec_jax.progress import say

TOGETHER = ("processes", "coordinator", "distributed")  # options that mean several processes
GRACE_S = 10.0  # between SIGTERM and SIGKILL to the workers that remain after one died
PATIENCE_S = {75: 120.0, 2: 5.0}  # exit codes that all workers end with, and how long the others may take
INTERRUPTED_S = 20.0  # how long all may take to end after Ctrl-C
HANG_S = 600.0  # without a step in training: warn once
POLL_S = 0.05
OWN_WORD = (b"error: ", b"diverged: ")  # lines that are shown from any worker, once each
NOISE = b"[Gloo] "  # what jax's collectives on the CPU print among the results

Saved = dict[Path, set[int]]  # the steps of each run


def is_asked(options: Mapping[str, str]) -> bool:
    """Whether the command asks for several processes, and this process is not one of them."""
    return not is_worker() and any(name in options for name in TOGETHER)


def run(argv: Sequence[str], options: Mapping[str, str], workdir: Path) -> int:
    """Start the workers of this host for the command `launch.py ARGV`, and wait for their end. Returns the exit code.

    Args:
      options: those of ARGV by name, without `--`.
    """
    wanted = _commands(argv, options)
    before = _saved(workdir)
    directory = paths.logs_directory(workdir)
    script = str(Path(sys.argv[0]).resolve())
    with _signals() as arrived:
        workers = [
            start([script, *arguments], {**os.environ, **more}, name, directory, process, of)
            for arguments, more, name, process, of in wanted
        ]
        try:
            return _Watch(workers, workdir, before, arrived).to_the_end()
        finally:
            for worker in workers:  # also processes that an ended worker left running
                worker.end_group(signal.SIGKILL)


def _commands(
    argv: Sequence[str], options: Mapping[str, str]
) -> Iterator[tuple[list[str], dict[str, str], str, int | None, int | None]]:
    """Of each worker of this host: arguments, added environment, name of the log, its number, number of processes."""
    if "coordinator" in options or "distributed" in options or "process" in options:
        process, of = (_number(options.get(name)) for name in ("process", "processes"))
        return iter([(list(argv), {}, _log_name(process), process, of)])
    count = _number(options["processes"])
    if count is None or count < 1:
        raise UserError(
            f"--processes={options['processes']}: expected the number of processes to start here, such as 2"
        )
    if note := devices.threads_note(count):
        say(f"warning: {note}")
    rest = [argument for argument in argv if not argument.startswith("--processes=")]
    address = f"--coordinator=127.0.0.1:{_free_port()}"
    several = [] if count == 1 else [address, f"--processes={count}"]
    given = enumerate(devices.of_workers(count, os.environ))
    return iter(
        [
            ([*rest, *several, *([f"--process={i}"] if several else [])], more, f"process-{i + 1}", i, count)
            for i, more in given
        ]
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _log_name(process: int | None) -> str:
    """The name of this host's log; several hosts may write into the same directory."""
    if process is None:
        process = next(
            (_number(os.environ[name]) for name in ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK") if name in os.environ), None
        )
    return f"process-{process + 1}" if process is not None else f"host-{socket.gethostname()}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _saved(workdir: Path) -> Saved:
    return {run: set(paths.saved_steps(run)) for run in paths.run_directories(workdir)}


@contextlib.contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """A list that every SIGTERM and SIGINT is appended to while the block runs."""
    arrived: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _put(stream: TextIO, text: bytes) -> None:
    """Write and flush. A closed pipe or terminal is ignored: the job goes on, and the logs are complete."""
    with contextlib.suppress(OSError, ValueError):
        stream.buffer.write(text)
        stream.flush()


class _Watch:
    """Watches the workers until all have ended. After the first failure the others get a bounded time."""

    def __init__(self, workers: Sequence[Worker], workdir: Path, before: Saved, arrived: list[signal.Signals]):
        self._workers, self._workdir, self._before, self._arrived = workers, workdir, before, arrived
        self._is_asked = False  # SIGTERM or SIGINT arrived
        self._dead: Worker | None = None  # the first that failed
        self._died = 0.0
        self._deadline: float | None = None  # when the next signal is sent to the workers that still run
        self._next = signal.SIGTERM
        self._ended_by_us: list[Worker] = []
        self._silent: Worker | None = None  # the one that still runs after jax ended the others because of it
        self._shown: set[bytes] = set()
        # by log: tracebacks and stack traces, shown only where no message of ours explains the failure
        self._held: dict[Path, list[bytes]] = {}
        self._hang_said = False

    def to_the_end(self) -> int:
        while running := [worker for worker in self._workers if worker.code is None]:
            self._pass_on(running)
            self._look_for_dead(running)
            self._end(running)
            self._show()
            self._look_for_hang(running)
            time.sleep(POLL_S)
        self._look_for_dead([])
        self._show()
        return self._outcome()

    def _pass_on(self, running: Sequence[Worker]) -> None:
        while self._arrived:
            number = self._arrived.pop(0)
            if self._is_asked:  # the second time
                self._deadline, self._next = time.monotonic(), signal.SIGKILL
                continue
            self._is_asked = True
            if number == signal.SIGINT:
                self._deadline = time.monotonic() + INTERRUPTED_S
            for worker in running:
                worker.running.send_signal(number)  # to the worker alone: it ends what it started

    def _look_for_dead(self, running: Sequence[Worker]) -> None:
        if self._dead is not None:
            return
        dead = [worker for worker in self._workers if worker.code]
        if dead:
            # One death causes others: of several seen in one poll the first is one that did not lose a peer.
            self._dead = min(dead, key=lambda worker: (worker.lost_peer, worker.process or 0))
            self._died = time.monotonic()
            patience = PATIENCE_S.get(self._dead.code or 0, 0.0)
            self._deadline = min(self._deadline or float("inf"), self._died + patience)
            if self._dead.lost_peer and len(running) == 1:
                self._silent = running[0]

    def _end(self, running: Sequence[Worker]) -> None:
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        for worker in running:
            worker.end_group(self._next)
            if worker not in self._ended_by_us:
                self._ended_by_us.append(worker)
        self._deadline, self._next = time.monotonic() + GRACE_S, signal.SIGKILL

    def _show(self) -> None:
        """Show new output: everything from the first worker, and `OWN_WORD` lines from any, once."""
        for worker in self._workers:
            number = worker.number
            first = number is None or number[0] == 0
            prefix = b"" if number is None or number[1] == 1 else f"[{number[0] + 1}/{number[1]}] ".encode()
            for line in worker.new_lines(worker.log):
                if worker.log in self._held or FATAL.match(line):
                    self._held.setdefault(worker.log, []).append(prefix + line)
                    continue
                word = line.startswith(OWN_WORD)
                if (word and line not in self._shown) or (first and not word):
                    _put(sys.stderr, prefix + line)
                if word:
                    self._shown.add(line)
            if first and (lines := [line for line in worker.new_lines(worker.out) if not line.startswith(NOISE)]):
                _put(sys.stdout, b"".join(lines))

    def _look_for_hang(self, running: Sequence[Worker]) -> None:
        training = [worker for worker in running if worker.progress.training]
        if self._hang_said or len(training) < len(running) or not training:
            return
        quiet = min(time.time() - worker.quiet_since for worker in training)
        if quiet > HANG_S:
            self._hang_said = True
            steps = ", ".join(f"{worker.name} at step {worker.progress.step}" for worker in training)
            say(
                f"warning: no step for {quiet:.0f} s ({steps}); SIGTERM ends the run, and the same command goes on "
                "from the last saved step"
            )

    def _outcome(self) -> int:
        dead = self._dead
        if dead is None:
            return 0
        code = dead.code
        if code in PATIENCE_S and not self._ended_by_us:
            return int(code)  # the worker has printed the reason
        if not dead.lost_peer:
            _put(sys.stderr, b"".join(self._held.get(dead.log, [])))
        self._note_death(dead)
        line = (
            dead.ended_how()
            if self._silent is None
            else f"{self._silent.name} no longer answers, so {dead.ended_how()}"
        )
        if self._ended_by_us and len(self._workers) > 1:
            others = "the other was" if len(self._workers) == 2 else "the others were"
            line += f"; {others} ended after {time.monotonic() - self._died:.0f} s"
        say(f"{line}; {self._goes_on()}")
        if code in PATIENCE_S:
            return int(code)
        said_why = any(line.startswith(b"diverged: ") for line in self._shown)
        return 1 if said_why or not self._saved_more() else 75

    def _note_death(self, dead: Worker) -> None:
        """Record the death in the ledger of the run in progress: the dead worker cannot."""
        begun = [run for run in paths.run_directories(self._workdir) if (run / paths.ATTEMPTS).exists()]
        if begun:
            run = max(begun, key=lambda run: (run / paths.ATTEMPTS).stat().st_mtime)
            attempts.note_death(run, dead.ended_how().partition(" (its log")[0], dead.progress.step)

    def _saved_more(self) -> bool:
        """Whether a new step was saved. Without one the same command would fail in the same way."""
        noted = [worker.progress for worker in self._workers]
        # the step may be in the near tier, on the worker's own disk
        if any(progress.saved is not None and progress.saved > (progress.first or 0) for progress in noted):
            return True
        return any(steps - self._before.get(run, set()) for run, steps in _saved(self._workdir).items())

    def _goes_on(self) -> str:
        unfinished = {
            run: steps for run, steps in _saved(self._workdir).items() if steps and not (run / "manifest.json").exists()
        }
        if not unfinished:
            return "run the same command to go on"
        run = max(unfinished, key=lambda run: (run / "checkpoints").stat().st_mtime)
        near = max((worker.progress.saved or 0 for worker in self._workers), default=0)
        return f"the same command goes on from step {max(near, *unfinished[run])}" + (
            f" of {run.name}" if len(_saved(self._workdir)) > 1 else ""
        )
