"""Artefacts on disk: written whole or not at all, and carrying the hash of what they were made from."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cprec_jax.errors import UserError

MANIFEST = "manifest.json"


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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

    A previous `final` stays whole until then. After an exception or a kill nothing of the new one is visible under its name; left-over
    temporaries of earlier kills are removed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for stale in final.parent.glob(f".{final.name}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = final.parent / f".{final.name}.{os.getpid()}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        old = final.parent / f".{final.name}.{os.getpid()}.old.tmp"
        if final.exists():
            os.replace(final, old)
        os.replace(temporary, final)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(f"{final}: the disk is full; free some space and run again (nothing was replaced)") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_current(path: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the artefact directory `path` exists whole and its manifest says it was made from just these `inputs`."""
    try:
        made_from = json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("inputs_hash")
    except (OSError, ValueError):
        return False
    return made_from == fingerprint(inputs)
