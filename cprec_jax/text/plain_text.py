"""General text for replay: plain files -> documents -> tokens, as a stream."""

import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from cprec_jax.config.build import nearest
from cprec_jax.config.pack import PlainTextSpec
from cprec_jax.errors import UserError, one_line
from cprec_jax.paths import local_path, refuse_address
from cprec_jax.text.tokenizer import Tokenizer

SPLIT = "text"
SAMPLES = 5
CHARACTERS_PER_WINDOW = 16_000_000
CHARACTERS_PER_BLOCK = 100_000
SUFFIXES = (".txt", ".jsonl")


def find_files(spec: PlainTextSpec) -> list[Path]:
    """The files of the patterns, each once, in the order of their paths. One that is not there, or of another kind, is
    a `UserError`."""
    all_files: set[Path] = set()
    root = local_path(spec.root, "config.pack.text.root")
    for pattern in spec.files:
        refuse_address(pattern, "config.pack.text.files")
        if (root / pattern).is_file():  # a file of just that name first, whatever characters it has
            paths = [root / pattern]
        else:
            given = local_path(pattern, "config.pack.text.files")
            paths = [Path(path) for path in glob.glob(_below(root, given), recursive=True)]
        files = [path for path in paths if path.is_file()]
        if not files:
            raise UserError(
                f"config.pack.text.files: {pattern!r} matches no file below {spec.root!r}; check it and "
                "config.pack.text.root"
            )
        all_files.update(files)
    for path in sorted(all_files):
        if _kind(path) not in SUFFIXES:
            raise UserError(
                f"config.pack.text.files: {path}: cannot tell its format; names end in .txt or .jsonl, with or "
                "without .gz"
            )
    return sorted(all_files)


def _below(root: Path, pattern: Path) -> str:
    return str(pattern) if pattern.is_absolute() else str(Path(glob.escape(str(root))) / pattern)


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


@dataclass
class TextCounts:
    """What became of the lines; goes into the manifest."""

    texts: int = 0
    characters: int = 0
    empty: int = 0
    bad_lines: int = 0
    samples: list[str] = field(default_factory=list)


class PlainText:
    """Reads the files of a spec as windows of whole texts; every line that cannot be used is counted."""

    def __init__(self, spec: PlainTextSpec):
        self.spec = spec
        self.paths = find_files(spec)
        self.counts = TextCounts()
        self._bad_in_file = 0

    def windows(self, tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Tokens int32[total] and offsets int64[n + 1] of texts, each begun with BOS where the tokenizer has one; a
        window at a time."""
        texts: list[str] = []
        tokens = held = 0
        for text in self._texts():
            texts.append(text)
            held += len(text)
            if held >= CHARACTERS_PER_WINDOW:
                yield (window := _encoded(texts, tokenizer))
                tokens += len(window[0])
                texts, held = [], 0
                if self.spec.max_tokens is not None and tokens >= self.spec.max_tokens:
                    return
        if texts:
            yield _encoded(texts, tokenizer)

    def _texts(self) -> Iterator[str]:
        for path in self.paths:
            before, self._bad_in_file = self.counts.texts, 0
            yield from (self._json_lines(path) if _kind(path) == ".jsonl" else self._plain(path))
            if self.counts.texts == before:
                raise UserError(
                    f"{path}: holds no text ({self.counts.bad_lines} bad lines, {self.counts.empty} empty so far); "
                    "leave it out"
                )

    def _lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """(line number from 1, text without its end); lines that are no UTF-8 are bad."""
        try:
            with _open(path) as stream:
                for number, raw in enumerate(stream, 1):
                    try:
                        yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                    except UnicodeDecodeError:
                        self._bad(path, number, "not UTF-8")
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be read; damaged or truncated? ({one_line(error)})") from error

    def _bad(self, path: Path, number: int, what: str) -> None:
        self.counts.bad_lines += 1
        self._bad_in_file += 1
        if len(self.counts.samples) < SAMPLES:
            self.counts.samples.append(f"{path}: line {number}: {what}")
        if self._bad_in_file > self.spec.max_bad_lines:
            raise UserError(
                f"{path}: line {number}: {what}; more bad lines in it than config.pack.text.max_bad_lines "
                f"({self.spec.max_bad_lines})"
            )

    def _kept(self, text: str) -> Iterator[str]:
        if text.strip():
            self.counts.texts += 1
            self.counts.characters += len(text)
            yield text
        else:
            self.counts.empty += 1

    def _json_lines(self, path: Path) -> Iterator[str]:
        for number, line in self._lines(path):
            if not line.strip():
                continue
            text, what = _field(line, self.spec.field)
            if text is None:
                self._bad(path, number, what)
            else:
                yield from self._kept(text)

    def _plain(self, path: Path) -> Iterator[str]:
        """Documents of a .txt file; long ones come in blocks of whole lines, so that no file need fit in memory."""
        block: list[str] = []
        held = 0
        for _, line in self._lines(path):
            if self.spec.document == "line":
                if line.strip():
                    yield from self._kept(line)
                continue
            ends = self.spec.document == "paragraph" and not line.strip()
            if not ends:
                block.append(line)
                held += len(line) + 1
            if block and (ends or held >= CHARACTERS_PER_BLOCK):
                yield from self._kept("\n".join(block))
                block, held = [], 0
        if block:
            yield from self._kept("\n".join(block))


def _open(path: Path) -> BinaryIO:
    with open(path, "rb") as stream:
        gzipped = stream.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if gzipped else open(path, "rb")


def _field(line: str, key: str) -> tuple[str | None, str]:
    """The text of a JSON line, or None and what is wrong with it."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None, "not JSON"
    if not isinstance(record, dict):
        return None, "not a JSON object"
    if key not in record:
        return None, f"no field {key!r}{nearest(key, record) if record else ''}"
    if not isinstance(record[key], str):
        return None, f"field {key!r} is {type(record[key]).__name__}, no text"
    return record[key].encode("utf-8", "replace").decode(
        "utf-8"
    ), ""  # half a surrogate pair is no text for a tokenizer


def _encoded(texts: list[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    tokens, offsets = tokenizer.encode_all(texts)
    if tokenizer.bos_id is None:
        return tokens, offsets
    with_bos = offsets + np.arange(len(offsets))
    out = np.empty(with_bos[-1], np.int32)
    is_bos = np.zeros(len(out), bool)
    is_bos[with_bos[:-1]] = True
    out[is_bos], out[~is_bos] = tokenizer.bos_id, tokens
    return out, with_bos


def cut(offsets: np.ndarray, capacity: int) -> np.ndarray:
    """Offsets int64[m + 1] of consecutive documents of at most `capacity` tokens, none of which spans two texts."""
    lengths = np.diff(offsets)
    parts = -(-lengths // capacity)
    starts = np.repeat(offsets[:-1], parts) + capacity * (
        np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    )
    return np.append(starts, offsets[-1]).astype(np.int64)
