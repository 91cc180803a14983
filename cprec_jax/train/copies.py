"""Copies of directories behind an address, `gs://bucket/x` or a path: the only importer of epath, orbax's path layer.

A bucket has neither renames of directories nor locks, so the file that says that a copy is whole is written last and
removed first. It lists all others with their sizes and SHA-256.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from etils import epath

CONTENTS = "contents.json"  # of a copy: what it holds
VERSION = 1
_CHUNK = 16 * 2**20


class DamagedCopy(Exception):
    """A copy whose files are not those that its list names."""


class Copies:
    """The copies in one directory behind an address, ADDRESS/NAME."""

    def __init__(self, address: str):
        # gcsfs logs the traceback of what it also raises, which is said in one line.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        self.address = address
        self._root = epath.Path(address)

    def names(self) -> list[str]:
        """Of all copies, whole or not. What the path layer raises is left to the caller."""
        try:
            return sorted(path.name for path in self._root.iterdir())
        except Exception as error:
            if not _says_missing(error):
                raise
            return []

    def contents(self) -> dict[str, dict[str, Any]]:
        """The lists of the whole copies, by name."""
        lists = {name: self._contents(name) for name in self.names()}
        return {name: contents for name, contents in lists.items() if contents is not None}

    def _contents(self, name: str) -> dict[str, Any] | None:
        try:
            contents = json.loads((self._root / name / CONTENTS).read_bytes())
        except ValueError:  # cut
            return None
        except Exception as error:
            if not _says_missing(error):
                raise
            return None
        usable = isinstance(contents, dict) and contents.get("version") == VERSION
        return contents if usable and isinstance(contents.get("files"), dict) else None

    def write(
        self,
        name: str,
        directory: Path,
        files: Iterable[str],
        facts: Mapping[str, Any],
        is_current: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Copy files of a directory, and then their list; what was there under that name goes.

        Args:
          files: their paths in the directory.
          facts: stand in the list, too.
          is_current: asked before the list is written; where the files are no longer what was to be copied, nothing
            stays.

        Returns whether there is a copy now.
        """
        self.remove(name)
        listed = {file: _send(directory / file, self._root / name / file) for file in files}
        if not is_current():
            self.remove(name)
            return False
        contents = {"version": VERSION, **facts, "files": listed}
        (self._root / name / CONTENTS).write_bytes(json.dumps(contents).encode())
        return True

    def read(self, name: str, contents: Mapping[str, Any], into: Path) -> None:
        """Bring the files of a copy into a directory. Raises `DamagedCopy` where one is not as it was."""
        for file, facts in contents["files"].items():
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts:
                raise DamagedCopy(f"{file!r} leads out of it")
            received = _receive(self._root / name / file, into / file)
            if received != facts:
                raise DamagedCopy(f"{file} is not as it was written")

    def remove(self, name: str) -> None:
        """Remove a copy, first of all what makes it whole."""
        for remove in ((self._root / name / CONTENTS).unlink, (self._root / name).rmtree):
            try:
                remove()
            except Exception as error:
                if not _says_missing(error):
                    raise


def _send(source: Path, target: epath.Path) -> dict[str, Any]:
    """Copy a file. Gives the size and hash of what was read, which may still be appended to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with open(source, "rb") as read, target.open("wb") as write:
        for chunk in _chunks(read):
            digest.update(chunk)
            size += len(chunk)
            write.write(chunk)
    if (length := target.stat().length) != size:
        raise OSError(f"{target} has {length:,} bytes after {size:,} were written")
    return {"bytes": size, "sha256": digest.hexdigest()}


def _receive(source: epath.Path, target: Path) -> dict[str, Any]:
    """Copy a file back, down to the disk. Gives its size and hash. Raises `DamagedCopy` where it is missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    try:
        with source.open("rb") as read, open(target, "wb") as write:
            for chunk in _chunks(read):
                digest.update(chunk)
                size += len(chunk)
                write.write(chunk)
            write.flush()
            os.fsync(write.fileno())
    except Exception as error:
        if not _says_missing(error):
            raise
        raise DamagedCopy(f"{source.name} is missing") from error
    return {"bytes": size, "sha256": digest.hexdigest()}


def _chunks(stream: Any) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _says_missing(error: Exception) -> bool:
    """Whether a path layer says that a file is not there; TensorFlow's has a class of its own."""
    return isinstance(error, FileNotFoundError | NotADirectoryError) or type(error).__name__ == "NotFoundError"
