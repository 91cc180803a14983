"""A raw file as bytes: what DuckDB passes over without a word is looked for here, before it reads the lines.

DuckDB drops a line that fills its buffer of 32 MB, reads on where a gzip file is damaged, and where one line ends
otherwise than the others it stops without saying which.
"""

import gzip
import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from cprec_jax.errors import UserError, one_line

LONGEST_LINE = 16 << 20  # bytes; from 2 MB on a line is counted as a bad one
_BLOCK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"


def is_gzip(path: Path) -> bool:
    """Whether the file is gzipped, whatever its name says. A file that cannot be opened is a `UserError`."""
    try:
        with open(path, "rb") as stream:
            return stream.read(2) == _GZIP_MAGIC
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def open_bytes(path: Path) -> BinaryIO:
    """The unpacked bytes."""
    return cast(BinaryIO, gzip.open(path, "rb") if is_gzip(path) else open(path, "rb"))


def check_lines(path: Path) -> None:
    """Too long a line, and a gzip file that is cut or whose checksum is wrong, are a `UserError`.

    Of a plain file only the first and the last page of every block are looked at; a gzip file is unpacked once.
    """
    last_end = -1
    for offset, content, start, stop in _blocks(path):
        first, last = content.find(b"\n", start, stop), content.rfind(b"\n", start, stop)
        if first < 0:  # old Macs ended lines so
            first, last = content.find(b"\r", start, stop), content.rfind(b"\r", start, stop)
        if (offset + (stop if first < 0 else first)) - last_end > LONGEST_LINE:
            raise UserError(
                f"{path}: the line from byte {last_end + 1:,} on is longer than {LONGEST_LINE >> 20} MB; is it a text "
                "file?"
            )
        last_end = last_end if last < 0 else offset + last


def _blocks(path: Path) -> Iterator[tuple[int, bytes | mmap.mmap, int, int]]:
    """(where `content` begins in the file, content, start and stop of the block in it)."""
    if not is_gzip(path):
        with open(path, "rb") as stream:
            size = stream.seek(0, 2)
            if size:  # nothing cannot be mapped
                with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    yield from ((0, content, start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))
        return
    offset = 0
    try:
        with gzip.open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                yield offset, block, 0, len(block)
                offset += len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged ({one_line(error)}); fetch the file again") from error


def line_of_byte(path: Path, offset: int) -> int:
    """The line, counted from 1, that holds the byte `place`, counted from 0 in the unpacked file. For messages: it
    reads the file."""
    line = 1
    with open_bytes(path) as stream:
        while offset > 0 and (block := stream.read(min(_BLOCK, offset))):
            line += block.count(b"\n") or block.count(b"\r")
            offset -= len(block)
    return line


def mixed_line_ends(path: Path) -> str | None:
    """Where the first line is that ends otherwise than those before it, in words; None without one. For messages: it
    reads the file."""
    names, usual = {b"\n": "LF", b"\r\n": "CR LF", b"\r": "CR"}, None
    n = 0
    with open_bytes(path) as stream:
        for line in stream:
            for piece in line.splitlines(keepends=True):
                n += 1
                end = b"\r\n" if piece.endswith(b"\r\n") else piece[-1:]
                usual = usual or end
                if end in names and end != usual:
                    return f"line {n} ends in {names[end]}, those before it in {names.get(usual, 'another way')}"
    return None
