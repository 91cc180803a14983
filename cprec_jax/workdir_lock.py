"""One process, or group of processes, at a time works in a work directory."""

import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cprec_jax.errors import UserError, one_line, shown
from cprec_jax.workdir import LOCK


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Make and hold the work directory while the block runs; the system lets go when the process ends, however it ends.

    Raises `UserError` with host, process and time of the one that holds it already, and where it cannot be made.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (
        OSError,
        RecursionError,
    ) as error:  # a link to nothing, a file system of the kernel, a name that is too long, ...
        reason = error.strerror if isinstance(error, OSError) else "too many directories below one another"
        raise UserError(f"{shown(workdir)[:200]}: cannot be made ({reason}); choose another --workdir") from error
    with open(workdir / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{workdir}: {_holder(file.read())} works in it; wait, stop that one, or choose another --workdir"
            ) from None
        except OSError:  # a file system without locks: nobody can be kept out
            pass
        file.truncate(0)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": now}, file)
        file.flush()
        yield
        file.truncate(0)


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (ValueError, TypeError, LookupError):
        return f"another process ({one_line(text)})" if text.strip() else "another process"
