"""Artefacts on disk: written whole or not at all, and carrying the hash of what they were made from."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cprec_jax.errors import UserError, one_line

MANIFEST = "manifest.json"
HOST = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())  # as it stands in names of temporaries
MADE_FROM = "made_from"
OF_EVERY_MANIFEST = ("version", "inputs_hash", MADE_FROM, "file_sizes")


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value` (sorted keys, no white space); equal values give equal hashes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=list).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes. A missing file is a `UserError`."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path in the config") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file under a temporary name and rename it, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """Read a JSON file; `made_by` names the job that writes it, for the message when it is absent or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `launch.py {made_by}` with the same --workdir first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `launch.py {made_by}` again") from None


@contextlib.contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """Give a temporary directory beside `final`; rename it to `final` when the block ends without an exception.

    A previous `final` stays whole until then. After an exception or a kill nothing of the new one is visible under its
    name; what earlier kills left is cleared up, and a `final` that one of them had moved away is put back. Of two
    processes the one that ends last stays.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _clear_up(final)
    temporary = final.parent / f".{final.name}.{HOST}.{os.getpid()}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        old = final.parent / f".{final.name}.{HOST}.{os.getpid()}.old.tmp"
        while True:
            try:
                os.replace(temporary, final)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            _move_away(final, old)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"{final}: the disk is full; free some space and run again (nothing was replaced)"
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_away(final: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):  # another process has just done so
        os.replace(final, old)


def _clear_up(final: Path) -> None:
    """Remove the temporaries of this host's dead processes; the `final` that one of them died over is put back."""
    temporary = re.compile(rf"\.{re.escape(final.name)}\.{HOST}\.(\d{{1,9}})(\.old)?\.tmp")
    for left in sorted(final.parent.iterdir()):
        matched = temporary.fullmatch(left.name)
        if not matched or _lives(int(matched[1])):
            continue
        if matched[2] and not final.exists():
            os.replace(left, final)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _lives(pid: int) -> bool:
    """Whether another process has this number. One that had ours is dead."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def file_sizes(directory: Path) -> dict[str, int]:
    """Relative path -> bytes of all files of an artefact but its manifest, which records them under `file_sizes`."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}


def write_manifest(directory: Path, made_from: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """The one writer of manifests: `facts` of an artefact, what it was `made_from` (see `graph.py`), and the sizes of
    its files."""
    record = {"version": 1, "inputs_hash": fingerprint(made_from), MADE_FROM: made_from, **facts}
    write_json(directory / MANIFEST, {**record, "file_sizes": file_sizes(directory)})


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of an artefact, None where there is none. A damaged one is a `UserError`."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{directory / MANIFEST}: damaged ({one_line(error)})") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{directory / MANIFEST}: damaged (no mapping)")
    return manifest
