"""Which process holds the TPU chips of a host: one process at a time may load libtpu, and jax does not say which."""

import os
import re
from pathlib import Path

from cprec_jax.errors import UserError, shown

LOCK_FILE = Path("/tmp/libtpu_lockfile")  # libtpu holds a lock on it as long as its process lives
PROC = Path("/proc")
_HELD = re.compile(
    r"TPU is already in use|libtpu(\.so)? (is )?already in use|libtpu multi-process lockfile|libtpu_lockfile", re.I
)
_PID = re.compile(r"by process with pid (\d+)")


def explained(error: BaseException | str, lock_file: Path = LOCK_FILE, proc: Path = PROC) -> UserError | None:
    """The `UserError` for an error of jax that means that another process holds the TPU; None for any other error."""
    text = str(error)
    if not _HELD.search(text):
        return None
    named = _PID.search(text)
    pid = int(named[1]) if named else _pid_of_lock(lock_file, proc)
    if pid is None:
        who = f"another process ({lock_file} is locked or cannot be opened; `sudo lsof -w {lock_file} /dev/accel* "
        return UserError(f"the TPU of this host is held by {who}/dev/vfio/*` names it); end it, or wait for it")
    command = _command(pid, proc)
    if command is None:
        return UserError(
            f"the TPU of this host was held by process {pid}, which is gone; wait a minute and run again, and if that "
            f"does not help remove {lock_file}"
        )
    return UserError(f"the TPU of this host is held by process {pid} ({command}); end it, or wait for it")


def refuse_fallback() -> None:
    """Raise `UserError` where jax fell back to the CPU because another process holds the TPU; jax says nothing then.

    Call it after `jax.devices()`.
    """
    import jax
    from jax._src import xla_bridge  # it records why a platform did not start, without a public name

    noted = getattr(xla_bridge, "_backend_errors", {}).get("tpu")
    if noted and jax.default_backend() == "cpu" and (mistake := explained(noted)):
        raise mistake


def _pid_of_lock(lock_file: Path, proc: Path) -> int | None:
    """The process that holds a lock on the file, from /proc/locks: `1: FLOCK ADVISORY WRITE PID DEVICE:INODE ...`."""
    try:
        inode = os.stat(lock_file).st_ino
        lines = (proc / "locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for fields in map(str.split, lines):
        if len(fields) > 5 and fields[5].rpartition(":")[2] == str(inode) and fields[4].isdigit():
            return int(fields[4])
    return None


def _command(pid: int, proc: Path) -> str | None:
    """The first 80 characters of a process's command line; None where there is no such process."""
    try:
        command = (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return shown(command)[:80] or "a process of the system"
