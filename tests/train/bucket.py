"""A stand-in of epath's layer for `gs://`: objects are files of a folder. It says nothing about a real bucket."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from etils.epath import backend, gpath

ADDRESS = "gs://bucket/copies"


class Bucket(backend._OsPathBackend):
    """As in a bucket no directory is made. `refuses` may raise at the path of a write or of a listing."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.written: list[str] = []  # paths in the bucket, in order
        self.refuses: Callable[[str], None] = lambda path: None

    def _file(self, path: Any) -> Path:
        scheme, _, name = os.fspath(path).partition("://")
        assert scheme == "gs"
        return self.folder / name

    def open(self, path: Any, mode: str) -> Any:
        file = self._file(path)
        if "w" in mode:
            self.refuses(os.fspath(path))
            self.written.append(os.fspath(path))
            file.parent.mkdir(parents=True, exist_ok=True)
        return open(file, mode)

    def listdir(self, path: Any) -> list[str]:
        self.refuses(os.fspath(path))
        return os.listdir(self._file(path))

    def makedirs(self, path: Any, *, exist_ok: bool = False, mode: int | None = None) -> None:
        pass

    def rmtree(self, path: Any) -> None:
        shutil.rmtree(self._file(path))

    def remove(self, path: Any) -> None:
        os.remove(self._file(path))

    def stat(self, path: Any) -> Any:
        return super().stat(self._file(path))


@contextmanager
def stand_in(folder: Path) -> Iterator[Bucket]:
    """`gs://` is this folder while the block runs, and a package for it is installed."""
    with pytest.MonkeyPatch.context() as patch:
        (folder / "packages").mkdir(parents=True, exist_ok=True)
        (folder / "packages/gcsfs.py").touch()
        patch.syspath_prepend(folder / "packages")
        bucket = Bucket(folder / "objects")
        patch.setitem(gpath._PREFIX_TO_BACKEND, "gs", bucket)
        patch.setattr(gpath, "_is_tf_installed", lambda: False)
        yield bucket
