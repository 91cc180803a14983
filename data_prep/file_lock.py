"""One process at a time works on a file, though several may be started on one folder of data."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cprec_jax.progress import say


@contextlib.contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Hold `PATH.lock` (flock, so that a killed process holds nothing), waiting for whoever has it; it is gone
    afterwards.

    Where the file system knows no locks there is no waiting.
    """
    lock = Path(f"{path}.lock")
    while True:
        held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _wait(held, path)
            if lock.exists() and os.path.samestat(
                os.stat(lock), os.fstat(held)
            ):  # else its last holder has taken it away
                break
        except FileNotFoundError:  # taken away between the two looks
            pass
        except BaseException:
            os.close(held)
            raise
        os.close(held)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


def _wait(held: int, path: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{path.name}: another process is at it; waiting")
        fcntl.flock(held, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
