"""Paths as users give them: `~` is expanded, addresses of other machines are refused, and a work directory is looked at
before any work."""

import errno
import importlib.util
import os
import re
from pathlib import Path

from cprec_jax.errors import UserError, one_line, shown

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://?")
_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[^/]+)*/?")
PATTERN = "[*?\\"  # orbax looks for the parts of a checkpoint by a pattern that begins with the directory's path


def local_path(text: str, option: str) -> Path:
    """The path that `text` names, with `~` and `~user` expanded. `option` begins every message.

    Raises `UserError` for an unknown user after `~`, for what no file system can hold, and what `refuse_address` does.
    """
    refuse_address(text, option)
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise UserError(
            f"{option}={shown(text)}: no such user; write ./{shown(text)} for a directory of that name"
        ) from None
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{option}={shown(text)[:80]}...: {error.strerror}; give a shorter path") from error
    return path


def refuse_address(text: str, option: str) -> None:
    """`UserError` for an address such as `gs://bucket/x` (also with its slashes merged: `gs:/bucket/x`), and for what
    is no file name."""
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(f"{option}={text!r}: is no name of a file that can be passed on; use one of valid UTF-8")
    if (scheme := _SCHEME.match(text)) is not None and not _exists(Path(text)):
        raise UserError(
            f"{option}={shown(text)}: {scheme[1]}:// is not supported here; copy or mount it, and give the path on "
            "this machine"
        )


def bucket_or_path(text: str, option: str) -> str:
    """`gs://bucket/directory` as it is given, or a path on this machine with `~` expanded.

    Raises `UserError` for what is neither, and where no package is installed that reads buckets.
    """
    if not text.startswith("gs:"):
        return str(local_path(text, option))
    if not _BUCKET.fullmatch(text):
        raise UserError(f"{option}={shown(text)}: is no address of a bucket; write gs://BUCKET/DIRECTORY")
    if not any(importlib.util.find_spec(package) for package in ("gcsfs", "tensorflow")):  # those that epath knows
        raise UserError(
            f"{option}={shown(text)}: needs gcsfs, which is not installed; run `pip install -r requirements-gcs.txt`, "
            "or give a path on this machine"
        )
    return text.rstrip("/")


def work_directory(text: str, option: str = "--workdir") -> Path:
    """The work directory, which may be new. Raises `UserError` where it could not be written, or checkpoints in it
    could not be read."""
    path = local_path(text, option)
    given = f"{option}={shown(text)}"
    if len(text.splitlines()) > 1 or text != text.rstrip("\r\n"):
        raise UserError(f"{given}: has a line break, and every message that names it would be torn apart; rename it")
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{given}: cannot be followed ({one_line(error)}); give another") from error
    for part in resolved.parts:
        if odd := [c for c in PATTERN if c in part]:
            raise UserError(
                f"{given}: {part!r} has a {odd[0]!r}, which the checkpoints' library takes for a pattern; rename it"
            )
        if part.endswith(":"):
            raise UserError(f"{given}: {part!r} reads as the scheme of an address; rename it")
    if path.is_symlink() and not _exists(path):
        raise UserError(
            f"{given}: is a link to {shown(resolved)}, which is not there; make that directory, or give another"
        )
    existing = resolved
    while not _exists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"{given}: {shown(existing)} is a file, not a directory; give another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"{given}: {shown(existing)} cannot be written (no permission, or a read-only disk); give another"
        )
    # pyarrow takes a relative path with a colon for an address
    return Path.cwd() / path if ":" in str(path) else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a directory that may not be looked into
        return False
