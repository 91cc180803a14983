"""What a file of a source really is, by its first bytes, and a form of it that DuckDB reads.

DuckDB reads UTF-8 and Latin-1, plain or gzipped. What comes as a zip archive, xz, bzip2 or in another encoding is
unpacked to plain UTF-8 beside the engine's own files; everything else that is no text is named for what it is.
"""

import bz2
import codecs
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from cprec_jax.config.build import nearest
from cprec_jax.errors import UserError, one_line, shown
from data_prep.engine import Engine

_BLOCK = 1 << 20
_HEAD = 4096
_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
_FOREIGN = {  # how the file begins -> what it is, and what to do
    b"\x28\xb5\x2f\xfd": "a Zstandard file; unpack it first (`zstd -d`)",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"SQLite format 3\0": "an SQLite database; export its table as CSV",
    b"\x89HDF": "an HDF5 file; write its table as CSV or Parquet",
    b"\xd0\xcf\x11\xe0": "an old Office document (.xls); save the sheet as CSV UTF-8",
    b"%PDF": "a PDF document",
    b"ORC": "an ORC file; write it as Parquet",
    b"Obj\x01": "an Avro file; write it as Parquet",
    b"ARROW1": "an Arrow (Feather) file; write it as Parquet",
    b"\x80\x02": "a pickle, which is never read; write the table as CSV or Parquet",
    b"\x80\x03": "a pickle, which is never read; write the table as CSV or Parquet",
    b"\x80\x04": "a pickle, which is never read; write the table as CSV or Parquet",
    b"\x80\x05": "a pickle, which is never read; write the table as CSV or Parquet",
    b"\x93NUMPY": "a NumPy array; write the table as CSV or Parquet",
    b"PK\x05\x06": "a zip archive without a file",
    b"version https://git-lfs": "a Git LFS pointer and not the file itself; fetch it (`git lfs pull`)",
}
PARQUET = b"PAR1"
_MARKS = (  # the longer ones first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DUCKDB_READS = ("utf-8", "latin-1")
_INVALID = "cprec_jax.invalid"
# What is no text in the given encoding becomes a byte that is none in UTF-8, either: so the line is counted as any such
# line.
codecs.register_error(_INVALID, lambda error: ("\udcff", cast(UnicodeDecodeError, error).end))


@dataclass(frozen=True, kw_only=True)
class Readable:
    """What DuckDB and the checks of lines read: `path` is plain or gzipped text in `encoding`; `link` leads there,
    without patterns."""

    path: Path
    link: Path
    gzipped: bool
    encoding: str


class SourceFile:
    """One file as it lies on disk. `encoding` "auto" is UTF-8 unless the file says otherwise; `member` is one of a zip
    archive; `where` is the dotted name of the file's settings, empty where it has none.

    What cannot be opened, and what is no text, is a `UserError`.
    """

    def __init__(self, path: Path, where: str, encoding: str = "auto", member: str | None = None):
        self.path, self.where = path, where
        try:
            with open(path, "rb") as stream:
                magic = stream.read(_HEAD)
        except OSError as error:
            raise UserError(f"{shown(path)}: cannot be read ({error.strerror})") from error
        self.packing = next((name for begin, name in _PACKED.items() if magic.startswith(begin)), None)
        if member is not None and self.packing != "zip":
            raise UserError(f"{where}.member: {shown(path)} is no zip archive; leave the key out")
        self.member = self._member(member) if self.packing == "zip" else None
        self.name = self.member or path.name
        self.head = magic if self.packing is None else self._head()
        self.is_parquet = self.head.startswith(PARQUET)
        if not self.is_parquet:
            self._refuse_foreign()
        self.encoding = (
            _encoding(self.head) if encoding == "auto" else codecs.lookup(encoding).name.replace("iso8859-1", "latin-1")
        )

    def open(self) -> BinaryIO:
        """The unpacked bytes."""
        if self.packing == "zip":
            return cast(BinaryIO, zipfile.ZipFile(self.path).open(cast(str, self.member)))
        opener = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}.get(self.packing or "", open)
        return cast(BinaryIO, opener(self.path, "rb"))  # type: ignore[operator]  # all of them take a path and a mode

    def readable(self, engine: Engine) -> Readable:
        """The file itself where DuckDB reads it, else an unpacked copy, which is gone with the engine."""
        if self.packing in (None, "gzip") and self.encoding in _DUCKDB_READS:
            return Readable(
                path=self.path, link=engine.link(self.path), gzipped=self.packing == "gzip", encoding=self.encoding
            )
        copy = engine.new_file()
        decode = codecs.getincrementaldecoder(self.encoding)(_INVALID)
        with open(copy, "wb") as target:
            for n, block in enumerate(self._blocks()):
                if self.encoding != "utf-8":
                    text = decode.decode(block, not block)
                    block = (text.removeprefix("\ufeff") if n == 0 else text).encode("utf-8", "surrogateescape")
                target.write(block)
        return Readable(path=copy, link=copy, gzipped=False, encoding="utf-8")

    def _blocks(self) -> Iterator[bytes]:
        """All of it, and at the end nothing, which ends the decoding."""
        try:
            with self.open() as stream:
                while block := stream.read(_BLOCK):
                    yield block
            yield b""
        except _DAMAGE as error:
            raise UserError(f"{shown(self.path)}: damaged ({one_line(error)}); fetch the file again") from error

    def _head(self) -> bytes:
        try:
            with self.open() as stream:
                return stream.read(_HEAD)
        except _DAMAGE as error:
            raise UserError(
                f"{shown(self.path)}: damaged ({one_line(error)}) or no {self.packing} file; fetch the file again"
            ) from error

    def _member(self, wanted: str | None) -> str:
        """The file of a zip archive to read: the one that is named, or the only one."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        except _DAMAGE as error:
            raise UserError(f"{shown(self.path)}: damaged or not a zip archive ({one_line(error)})") from error
        if "[Content_Types].xml" in names:
            raise UserError(f"{shown(self.path)}: an Office document (.xlsx); save the sheet as CSV UTF-8")
        if wanted is not None:
            if wanted not in names:
                raise UserError(f"{self.where}.member: {shown(self.path)} has no {wanted!r}{nearest(wanted, names)}")
            return wanted
        # what a desktop leaves beside the files that it packs
        names = [
            name for name in names if not name.startswith("__MACOSX/") and not name.rpartition("/")[2].startswith(".")
        ] or names
        if len(names) != 1:
            inside = ", ".join(map(shown, sorted(names)[:5])) or "nothing"
            todo = f"set {self.where}.member to one of them" if self.where else "unpack it first"
            raise UserError(f"{shown(self.path)}: a zip archive of {len(names)} files ({inside}); {todo}")
        return names[0]

    def _refuse_foreign(self) -> None:
        if inner := next(
            (name for begin, name in _PACKED.items() if self.packing and self.head.startswith(begin)), None
        ):
            raise UserError(f"{shown(self.path)}: a {self.packing} file that holds a {inner} file; unpack it first")
        for begin, what in _FOREIGN.items():
            if self.head.startswith(begin):
                raise UserError(f"{shown(self.path)}: {what}")
        if self.head[257:262] == b"ustar":
            raise UserError(f"{shown(self.path)}: a tar archive; unpack it first (`tar -xf`)")
        start = self.head.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml")):
            raise UserError(f"{shown(self.path)}: a web page or XML, not the data; fetch the file itself")


_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


def _encoding(head: bytes) -> str:
    """UTF-8 unless there is a byte order mark, or every second byte is zero, as UTF-16 without one has it for most
    scripts of Europe."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    even, odd = head[0:512:2], head[1:512:2]
    if len(odd) >= 8 and odd.count(0) > 0.7 * len(odd) and even.count(0) == 0:
        return "utf-16-le"
    if len(even) >= 8 and even.count(0) > 0.7 * len(even) and odd.count(0) == 0:
        return "utf-16-be"
    return "utf-8"


def looks_like_json(first_line: str) -> bool:
    """Whether a file that begins so is JSON: one record a line, or one value over many lines."""
    start = first_line.strip()
    return start in ("[", "{") or re.match(r"""\[\s*[\[\]]|(\{|\[\s*\{)\s*(["'].*["']\s*:|\})""", start) is not None
