"""The remote tier of checkpoints: copies of a run's durable ones behind an address, for when its disk is gone.

The first process alone makes them, in a background thread, from what orbax has renamed on the disk. Nothing waits for
it but the end of the training, and what goes wrong there ends nothing. At the start a run whose directory lacks the
newest copy gets all that it lacks back.
"""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from cprec_jax.errors import UserError, one_line
from cprec_jax.parallel import processes
from cprec_jax.paths import bucket_or_path
from cprec_jax.progress import say
from cprec_jax.train.checkpoint import FROZEN
from cprec_jax.train.copies import Copies, DamagedCopy
from cprec_jax.train.loggers.wandb import ID
from cprec_jax.workdir import ATTEMPTS, CHECKPOINTS, DESCRIPTION, METRICS, name_of_run, saved_steps

LOGS = (METRICS, ATTEMPTS, ID)  # files of a run that no checkpoint holds and that a resumed run goes on writing
STOPPING_S = 20.0  # for the last copy after SIGTERM: machines that are taken away give some 30 s
LOOK_S = 0.5  # between two looks for a checkpoint that orbax still writes
TEMPORARY = ".copies.tmp"  # in the run's directory

Differences = Callable[[Mapping[str, Any]], list[str]]


class RemoteTier:
    """The copies of one run, ADDRESS/RUN/STEP and ADDRESS/RUN/frozen; each mirrors the run's directory with that alone,
    and the logs.

    `failure` says after `finish` why the last copy is not there, None: it is.
    """

    def __init__(self, address: str, run: Path, name: str, made_from: Mapping[str, Any], differences: Differences):
        """name: of the run's directory behind the address; made_from: goes into every copy; differences: of what
        another copy was made from to this, in words."""
        self.failure: str | None = None
        self._failed: str | None = None  # why the last attempt to copy did not come to its end
        self._copies, self._run = Copies(f"{address.rstrip('/')}/{name}"), run
        self._made_from, self._differences = made_from, differences
        self._contents: dict[str, dict[str, Any]] | None = None  # of the whole copies at the start; None: not known yet
        self._copied: set[str] = set()  # names of copies that are whole
        self._not_read: set[int] = set()  # steps that could not be brought back, which is no reason to remove them
        self._causes: set[tuple[Any, ...]] = set()  # of warnings that were said
        self._changed = threading.Condition()  # of the three below
        self._asked: int | None = None
        self._ending = self._abandoned = False
        self._thread: threading.Thread | None = None

    def refuse_another_run(self) -> None:
        """Read which copies there are. `UserError` where they are of another run, or where they cannot be read and the
        run's directory has no checkpoint either: training anew would not be what was asked for.

        Of the first process, as is `bring_back`.
        """
        try:
            self._read_contents()
        except UserError:
            raise
        except Exception as error:
            self._say_not_read(error)

    def bring_back(self) -> None:
        """Bring back all checkpoints that the run's directory lacks, if the newest is one of them, and longer logs."""
        steps = sorted(int(name) for name in self._contents or {} if name.isdigit())
        saved = saved_steps(self._run)
        newest = max(saved, default=-1)
        if not steps or steps[-1] <= newest:
            return
        wanted = [step for step in steps if step not in saved]
        whose = f"the newest of {self._run} is step {newest}" if saved else f"{self._run} has none"
        steps_are = f"step {wanted[0]} is" if len(wanted) == 1 else f"steps {', '.join(map(str, wanted))} are"
        say(f"train: {steps_are} brought back from {self._copies.address}; {whose}")
        try:
            if not (self._run / CHECKPOINTS / FROZEN).exists():
                self._fetch(FROZEN)
            for step in wanted:  # the newest last: one that is there says that all others are
                self._fetch(str(step))
        finally:
            shutil.rmtree(self._run / TEMPORARY, ignore_errors=True)

    def save(self, step: int) -> None:
        """Copy a checkpoint, as soon as it is whole on the disk."""
        if not processes.is_first():
            return
        with self._changed:
            self._copied.discard(str(step))  # it may have been made again
            self._asked = step
            self._changed.notify_all()
        self._start()

    def finish(self, is_stopping: Callable[[], bool]) -> None:
        """Wait for the copies of what is on the disk; only some seconds once the job is to stop. All processes must
        call."""
        self.failure = processes.from_first(lambda: self._finish(is_stopping))

    def __enter__(self) -> "RemoteTier":
        self._abandoned = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def _read_contents(self) -> None:
        contents = self._copies.contents()
        for name, copy in contents.items():
            recorded = copy.get("made_from", {})
            if changed := self._differences(recorded):
                raise UserError(
                    f"{self._copies.address}: {name} was copied from a run with other inputs "
                    f"({'; '.join(changed[:4])}); give config.train.copy_to another address, or remove what is there"
                )
        self._contents, self._copied = contents, set(contents)

    def _say_not_read(self, error: Exception) -> None:
        """An address that does not answer: a warning, while the run has a checkpoint to go on from."""
        if not saved_steps(self._run):
            raise UserError(
                f"{self._copies.address}: cannot be read ({_reason(error)}); mend config.train.copy_to, or leave it "
                "out to go without its copies"
            ) from error
        self._warn(error, "cannot be read")

    def _fetch(self, name: str) -> None:
        """Bring one copy back, if it is whole; its logs, if they are longer than what is there."""
        contents, run = (self._contents or {}).get(name), self._run
        if contents is None:
            return
        temporary = run / TEMPORARY / name
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            if contents.get("frozen") and not (run / CHECKPOINTS / FROZEN).exists():
                raise DamagedCopy(f"the copy of {FROZEN} beside it is missing")
            self._copies.read(name, contents, temporary)
        except DamagedCopy as error:
            self._copied.discard(name)
            say(f"warning: {self._copies.address}/{name} cannot be used ({error})")
            return
        except Exception as error:
            self._not_read |= {int(name)} if name.isdigit() else set()
            self._say_not_read(error)
            return
        for log in LOGS:
            if _size(temporary / log) > _size(run / log):
                os.replace(temporary / log, run / log)
        (run / CHECKPOINTS).mkdir(exist_ok=True)
        os.replace(temporary / CHECKPOINTS / name, run / CHECKPOINTS / name)

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="copies", daemon=True)
            self._thread.start()

    def _finish(self, is_stopping: Callable[[], bool]) -> str | None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._start()
        assert self._thread is not None
        deadline = None
        while self._thread.is_alive() and (deadline is None or time.monotonic() < deadline):
            if deadline is None and is_stopping():
                deadline = time.monotonic() + STOPPING_S
            self._thread.join(0.1)
        with self._changed:
            self._ending = False
        return f"it was not done {STOPPING_S:.0f} s after SIGTERM" if self._thread.is_alive() else self._failed

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked is not None or self._ending or self._abandoned)
                step, self._asked, ending = self._asked, None, self._ending
            if step is not None:
                self._wait_for(step)
            if self._abandoned:
                return
            self._copy_all()
            if ending:
                return

    def _wait_for(self, step: int) -> None:
        """Until a checkpoint is whole, another one is asked for, or there is nothing to wait for any more."""
        path = self._run / CHECKPOINTS / str(step)
        with self._changed:
            while not (path.is_dir() or self._asked is not None or self._ending or self._abandoned):
                self._changed.wait(LOOK_S)

    def _copy_all(self) -> None:
        """Copy what has no copy, the newest first, and remove copies of what the run's directory no longer keeps."""
        try:
            if self._contents is None:
                self._read_contents()
            if (self._run / CHECKPOINTS / FROZEN).exists():
                self._copy(FROZEN)
            for step in reversed(saved_steps(self._run)):
                self._copy(str(step))
            self._remove_old()
            self._failed = None
        except Exception as error:  # the path layers raise many kinds
            self._failed = _reason(error)
            self._warn(error, "cannot be written, and is tried again with the next checkpoint")

    def _copy(self, name: str) -> None:
        if name in self._copied or self._abandoned:
            return
        files = self._files(name)
        logs = [log for log in (DESCRIPTION, *LOGS) if (self._run / log).exists()]
        facts = {"made_from": self._made_from, "frozen": name != FROZEN and FROZEN in self._copied}

        def is_current() -> bool:  # orbax may remove it meanwhile, file by file
            return self._files(name) == files

        try:
            written = self._copies.write(name, self._run, [*files, *logs], facts, is_current)
        except FileNotFoundError:
            if is_current():
                raise
            return
        if written:
            self._copied.add(name)

    def _files(self, name: str) -> dict[str, int]:
        """The files of a checkpoint by their paths in the run's directory, with their sizes."""
        with contextlib.suppress(FileNotFoundError):  # removed while it is looked through
            paths = sorted((self._run / CHECKPOINTS / name).rglob("*"))
            return {path.relative_to(self._run).as_posix(): _size(path) for path in paths if path.is_file()}
        return {}

    def _remove_old(self) -> None:
        saved = saved_steps(self._run)
        for name in self._copies.names():
            if name.isdigit() and int(name) not in {*saved, *self._not_read} and int(name) < max(saved, default=0):
                self._copied.discard(name)
                self._copies.remove(name)

    def _warn(self, error: Exception, what: str) -> None:
        """Once per cause: the text of an error may name another file each time."""
        cause = (what, type(error).__name__, getattr(error, "errno", None), getattr(error, "code", None))
        if cause not in self._causes:
            self._causes.add(cause)
            say(f"warning: {self._copies.address}: {what} ({_reason(error)})")


def remote_tier(
    copy_to: str | None, workdir: Path, directory: Path, made_from: Mapping[str, Any], differences: Differences
) -> RemoteTier | None:
    """Of the run `directory` of a work directory; None: no copies are asked for.

    differences: to what a run was made from, by the rules of its artefact. Its inputs must be just the same.
    """
    if copy_to is None:
        return None

    def all_differences(recorded: Mapping[str, Any]) -> list[str]:
        changed = differences(recorded)
        return changed or (["made from other rows or runs"] if recorded.get("inputs") != made_from["inputs"] else [])

    address = bucket_or_path(copy_to, "config.train.copy_to")
    return RemoteTier(address, directory, name_of_run(workdir, directory), made_from, all_differences)


def _size(path: Path) -> int:
    """In bytes; -1 where there is no file."""
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return -1


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {one_line(error)[:160]}".rstrip(": ")
