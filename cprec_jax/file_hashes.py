"""SHA-256 of outside files, each read once: kept in the work directory by path, size, time of change, inode and
device."""

import json
import os
from pathlib import Path

from cprec_jax.artefact import file_sha256, write_json
from cprec_jax.errors import UserError
from cprec_jax.workdir import FILE_HASHES


class FileHashes:
    """The hashes that a work directory knows. A new one is written down at once, where the work directory is there."""

    def __init__(self, workdir: Path):
        self._path = workdir / FILE_HASHES
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            self._known: dict[str, list] = known if isinstance(known, dict) else {}
        except (OSError, ValueError):  # absent or damaged: files are read again
            self._known = {}

    def sha256(self, path: Path) -> str:
        """Of a file's bytes. One that cannot be read is a `UserError`."""
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the path in the config") from error
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev]
        key = os.path.abspath(path)
        entry = self._known.get(key)
        if isinstance(entry, list) and entry[:-1] == stamp:
            return str(entry[-1])
        sha256 = file_sha256(path)
        self._known[key] = [*stamp, sha256]
        if self._path.parent.is_dir() and os.access(self._path.parent, os.W_OK):
            write_json(self._path, self._known)
        return sha256
