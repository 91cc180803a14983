"""One delimited or Parquet file: what it is, its columns, and how DuckDB reads it."""

import csv
import difflib
import io
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from cprec_jax.config.source import FileSpec
from cprec_jax.errors import UserError, one_line, shown
from cprec_jax.progress import say
from data_prep.adapters.raw_file import check_lines, line_of_byte, mixed_line_ends
from data_prep.adapters.source_file import Readable, SourceFile, looks_like_json
from data_prep.engine import MIXED_LINE_ENDS, Engine, EngineError, OpenQuote
from data_prep.rejects import Rejects, shorten

_FORMATS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".txt": "tsv", ".parquet": "parquet"}
_PACKED_SUFFIXES = {".gz", ".zip", ".xz", ".bz2"}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
# tried in turn where a header line has no column otherwise
_OTHER_DELIMITERS = (
    ",",
    ";",
    "\t",
    "|",
    "::",
    "^",
    "\x01",
    " ",
)
_HEADER_NAMES = {"user_id", "userid", "item_id", "itemid", "title", "timestamp"}
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
_PROBED = 100  # records
_MOST = 0.5  # of them; a delimiter under which fewer are whole is not that of a file without a header line
_SHOWN = 12  # columns
_MOST_SHOWN = 300  # characters of their names
_PROBED_ROWS = 100_000
_QUOTED_SHARE = 0.05  # of the rows; from here on quotes are more than a title in quotation marks here and there
_NUMBER = re.compile(r"\s*[+-]?\d+([.,:T-]\d+)*\s*")


def _shape(field: str) -> str:
    """The field with every number as 0: `B0017` and `B0423` are written alike."""
    return re.sub(r"\d+", "0", field)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A delimited file without a header line, as a platform publishes it."""

    columns: tuple[str, ...]
    delimiter: str
    quote: str = ""
    encoding: str = "auto"


class TableFile:
    """One delimited or Parquet file: its header (or the `layout` that stands for it), and how DuckDB reads it.

    `settings` are the file's own (`SourceSpec.file`), `where` the dotted name of the source, `which` "interactions" or
    "items"; `fixed` says that a platform, and no config, names the columns; `is_part`, that the table has more files,
    so that this one may have no row.
    """

    def __init__(
        self,
        path: Path,
        which: str,
        where: str,
        settings: FileSpec,
        layout: Layout | None = None,
        fixed: bool = False,
        is_part: bool = False,
    ):
        self.fixed, self.is_part = fixed or layout is not None, is_part
        self.path, self.which, self.where, self.layout, self.settings = path, which, where, layout, settings
        self.shown = shown(path)
        self.file_key = f"{where}.files.{which}"
        encoding = layout.encoding if layout is not None else settings.encoding or "auto"
        self.file = SourceFile(path, "" if self.fixed else self.file_key, encoding, settings.member)
        self.skip = 0
        if layout is not None:
            self.format, self.delimiter, self.quote, self.has_header = "text", layout.delimiter, layout.quote, False
        else:
            self.format = self._format()
            self.delimiter, self.quote, self.has_header = (
                _DELIMITERS.get(self.format, ""),
                "",
                settings.header is not False,
            )
        try:
            self.columns = self._columns()
        except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.shown}: damaged or not a {self.format} file ({one_line(error)})") from error

    def _format(self) -> str:
        given: str = self.settings.format or "auto"
        if given == "auto":
            suffixes = [
                suffix.lower() for suffix in Path(self.file.name).suffixes if suffix.lower() not in _PACKED_SUFFIXES
            ]
            given = "parquet" if self.file.is_parquet else _FORMATS.get(suffixes[-1] if suffixes else "", "")
        if not given:
            self._refuse_json(self._first_line())
            raise UserError(
                f"{self.shown}: cannot tell its format by its name; set {self.where}.format to 'csv', 'tsv' or "
                "'parquet'"
            )
        if given == "parquet" and self.file.packing:
            raise UserError(f"{self.shown}: a {self.file.packing} file that holds Parquet; unpack it first")
        if given != "parquet" and self.file.is_parquet:
            raise UserError(f"{self.shown}: a Parquet file; set {self.file_key}.format = 'parquet'")
        if given == "parquet" and not self.file.is_parquet and self.file.head:
            raise UserError(
                f"{self.shown}: damaged or not a parquet file (it begins otherwise); if it is text, set "
                f"{self.file_key}.format = 'csv'"
            )
        return given

    def open_text(self) -> TextIO:
        encoding = {"utf-8": "utf-8-sig"}.get(self.file.encoding, self.file.encoding)
        return io.TextIOWrapper(self.file.open(), encoding, errors="replace", newline="")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """(line number from 1, fields) of a delimited file, header included."""
        with self.open_text() as stream:
            lines = (line.replace("\0", "").removeprefix("\ufeff") for line in stream)
            for _ in range(self.skip):
                next(lines, None)
            if len(self.delimiter) > 1:
                for n, line in enumerate(lines, 1 + self.skip):
                    yield (
                        n,
                        [
                            field.strip(self.quote) if self.quote else field
                            for field in line.rstrip("\r\n").split(self.delimiter)
                        ],
                    )
                return
            if self.quote:
                reader = csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote)
            else:
                reader = csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
            for fields in reader:
                yield reader.line_num + self.skip, fields

    def _columns(self) -> list[str]:
        if self.format == "parquet":
            with open(self.path, "rb") as stream:
                self.schema = pq.read_schema(stream)
            return self.schema.names
        if self.layout is None:
            self._find_delimiter()
        if self.quote and self.quote in self.delimiter:
            raise UserError(
                f"{self.file_key}.quote: {self.quote!r} stands between the fields of {self.shown}, too; set it to "
                "another, or to 'none'"
            )
        first = next(self.records(), None)
        if first is None:
            raise UserError(f"{self.shown}: the file is empty; expected {self._expected()}")
        if not any(first[1]):
            raise UserError(
                f"{self.shown}: its first line is blank; expected {self._expected()}: take blank lines out of the "
                "beginning"
            )
        if self.layout is not None:
            return list(self.layout.columns)
        if not self.has_header and (names := [field for field in first[1] if field.strip().lower() in _HEADER_NAMES]):
            say(
                f"{self.shown}: its first line looks like a header ({', '.join(names)}), which header = False reads "
                "as data"
            )
        return first[1] if self.has_header else [str(n + 1) for n in range(self._n_fields())]

    def _expected(self) -> str:
        return "a header line with column names" if self.has_header else "one record a line"

    def _find_delimiter(self) -> None:
        """Settle delimiter and quote; a first line `sep=;`, as Excel writes it, is passed over."""
        first = self._first_line()
        given = self.settings.delimiter or "auto"
        if announced := re.fullmatch(r'"?sep=(.)"?', first, re.IGNORECASE):
            self.skip = 1
            given = announced[1] if given == "auto" else given
        needed = [name for name in vars(self.settings.columns).values() if name is not None]
        if given != "auto":
            self._take(given)
            if not self._has(needed):
                self._refuse_json(first)
            return
        usual = self.delimiter
        for delimiter in (usual, *(another for another in _OTHER_DELIMITERS if another != usual)):
            self._take(delimiter)
            if delimiter == " " and any(another in first for another in _OTHER_DELIMITERS if another != " "):
                continue  # blanks beside another delimiter
            if self.settings.quote == delimiter != usual:
                continue
            if self._has(needed):
                if delimiter != usual:
                    say(f"{self.shown}: its fields are parted by {delimiter!r}")
                return
        self._take(usual)
        self._refuse_json(first)

    def _first_line(self) -> str:
        with self.open_text() as stream:
            return stream.readline().removeprefix("\ufeff").rstrip("\r\n")

    def _refuse_json(self, first_line: str) -> None:
        """A `UserError` where a file that should be delimited text begins as JSON does."""
        if not looks_like_json(first_line):
            return
        if self.fixed:
            raise UserError(
                f"{self.shown}: JSON and no CSV; if it is the platform's JSON, rename the file so that it ends in "
                ".jsonl"
            )
        lines = "" if first_line.strip()[:1] == "[" or first_line.strip() == "{" else ", lines=True"
        raise UserError(
            f"{self.shown}: JSON and no delimited text; write it as CSV or Parquet "
            f"(`pandas.read_json(PATH{lines}).to_parquet(...)`), or set {self.where}.adapter to that of its platform"
        )

    def _take(self, delimiter: str) -> None:
        self.delimiter = delimiter
        # TSV of the field holds raw quotes (24" TV) and no quoting; CSV quotes as RFC 4180 says. So does what is
        # neither, but for `::`.
        raw = (self.format == "tsv" and delimiter == "\t") or len(delimiter) > 1
        given = self.settings.quote or "auto"
        self.quote = {"auto": "" if raw else '"', "none": ""}.get(given, given)

    def _has(self, needed: Sequence[str]) -> bool:
        """Whether the file has these columns under the delimiter that is tried."""
        try:
            if self.has_header:
                first = next(self.records(), None)
                return first is not None and set(needed) <= set(first[1])
            places = [int(name) - 1 if name.isdigit() and int(name) else 0 for name in needed]
            return self._share_filled(places) > _MOST
        except csv.Error:
            return False

    def _share_filled(self, indices: Sequence[int]) -> float:
        """Of the first lines, those that have as many fields as most, with text at these places."""
        records = [fields for _, fields in itertools.islice(self.records(), _PROBED) if fields]
        usual = Counter(map(len, records)).most_common(1)
        filled = [
            fields
            for fields in records
            if len(fields) == usual[0][0] > max(indices) and all(fields[index] for index in indices)
        ]
        return len(filled) / len(records) if records else 0.0

    def _n_fields(self) -> int:
        """Fields of most of the first lines."""
        counts = Counter(len(fields) for _, fields in itertools.islice(self.records(), _PROBED) if fields)
        return counts.most_common(1)[0][0] if counts else 0

    def stage(self, wanted: dict[str, str], engine: Engine, rejects: Rejects) -> None:
        """Read the wanted columns (ours -> the file's) as text into the table `staged`; malformed lines go to
        `rejects`."""
        for column, name in wanted.items():
            self._check_column(column, name)
        readable: Readable | None = None
        try:
            if self.format == "parquet":
                engine.stage_parquet(engine.link(self.path), wanted)
                malformed = []
            else:
                readable = self.file.readable(engine)
                check_lines(readable.path)
                # By place: a header may hold columns without a name, or names that differ only in case, which are one
                # to DuckDB.
                names = [f"column {n}" for n in range(len(self.columns))]
                malformed = engine.stage_delimited(
                    readable.link,
                    {column: names[self.columns.index(name)] for column, name in wanted.items()},
                    names,
                    self.delimiter,
                    self.quote,
                    readable.gzipped,
                    self.has_header,
                    readable.encoding,
                    self.skip,
                )
        except OpenQuote as error:
            assert readable is not None
            n, lost = line_of_byte(readable.path, error.start), error.n_lines
            raise UserError(
                f"{self.shown}: line {n}: a quote opens a field there and is not closed as it should be, which would "
                f"lose {lost:,} lines; "
                "mend the line (a quote within a quoted field is doubled)"
            ) from error
        except EngineError as error:
            if readable and MIXED_LINE_ENDS in str(error) and (endings := mixed_line_ends(readable.path)):
                raise UserError(f"{self.shown}: mixed line ends: {endings}; make them alike") from error
            text = one_line(error)
            for path in (readable.link, readable.path) if readable else ():
                text = text.replace(str(path), self.shown)
            raise UserError(
                f"{self.shown}: cannot be read; truncated or not a {self.format} file? ({text[:200]})"
            ) from error
        for what, n, samples in malformed:
            rejects.bad_lines(f"malformed line: {what}", n, str(self.path), samples, self.which)
        if not self.is_part and not engine.value("SELECT count(*) FROM staged"):
            if readable and (endings := mixed_line_ends(readable.path)):
                raise UserError(f"{self.shown}: mixed line ends: {endings}; make them alike")
            after = " after the header" if self.has_header and self.format != "parquet" else ""
            raise UserError(f"{self.shown}: no readable rows{after}; {rejects.why_nothing(self.which)}")
        if not self.quote and self.format != "parquet" and self.layout is None:
            self._say_if_quoted(list(wanted), engine)

    def _say_if_quoted(self, columns: Sequence[str], engine: Engine) -> None:
        """A line where quotes are ordinary characters and many fields begin with one."""
        begins = " OR ".join(f"starts_with({name}, '\"')" for name in columns)
        counts = f"SELECT count(*) FILTER (WHERE {begins}), count(*) FROM (SELECT * FROM staged LIMIT {_PROBED_ROWS})"
        n, n_rows = engine.rows(counts)[0]
        if n > _QUOTED_SHARE * n_rows:
            say(
                f"{self.shown}: {n / n_rows:.1%} of its rows have a field that begins with a quote, which is read as "
                "part of the text; "
                f"if fields are quoted there (pandas writes TSV so), set {self.file_key}.quote = '\"'"
            )

    def _check_column(self, column: str, name: str) -> None:
        """A column that is not there, occurs twice or would be read as something else is a `UserError`."""
        if name not in self.columns:
            option = "time" if column == "time_text" else column.removesuffix("_id")
            # The other file may have another name for the item.
            key = f"{self.file_key if option == 'item' else self.where}.columns.{option}"
            if self.settings.header is False and self.layout is None and not self.fixed:
                raise UserError(
                    f"{self.shown}: no column {name!r}: it has no header line ({self.file_key}.header) and "
                    f"{len(self.columns)} columns; "
                    f"set {key} to a place from '1' to '{len(self.columns)}'"
                )
            hint = f"{self._nearest(name)} (set {key} to the file's name for it)"
            if not self.fixed and (mark := self._quoted_name(name)):
                hint = f", but {mark}{name}{mark}: its fields are quoted; set {self.file_key}.quote = {mark!r}"
            elif self.fixed:
                hint = f"{self._nearest(name)} (the platform's files have it: is this the file as published?)"
            elif self.has_header and "\ufffd" in "".join(self.columns):
                hint = (
                    f"; its first line is no text in {self.file.encoding}: if it is in another one, set "
                    f"{self.file_key}.encoding"
                )
            elif self.has_header and self._begins_with_data():
                example = self.delimiter.join(self.columns)[:60]
                hint = (
                    f"; its first line looks like data, not names ({example}): if it has no header line, set "
                    f"{self.file_key}.header = False"
                )
            # a damaged header may hold line breaks
            raise UserError(one_line(f"{self.shown}: no column {name!r}{hint}"))
        if self.columns.count(name) > 1:
            raise UserError(f"{self.shown}: column {name!r} occurs twice in the header; rename one")
        if self.format == "parquet":
            self._check_type(column, name)

    def _begins_with_data(self) -> bool:
        """Whether the first line is a record and no header: it holds a number, or what is written as most of the column
        below is."""
        if any(map(_NUMBER.fullmatch, self.columns)):
            return True
        below = [
            fields for _, fields in itertools.islice(self.records(), 1, _PROBED) if len(fields) == len(self.columns)
        ]
        shapes = [
            (_shape(name), [_shape(fields[index]) for fields in below]) for index, name in enumerate(self.columns)
        ]
        return any("0" in shape and below_shapes.count(shape) > len(below) / 2 for shape, below_shapes in shapes)

    def _quoted_name(self, name: str) -> str:
        """The mark that stands round the name of the column in the header line; "" where the file has no such
        column."""
        return next((mark for mark in "\"'" if f"{mark}{name}{mark}" in self.columns), "")

    def _nearest(self, name: str) -> str:
        """A column of nearly this name that is not used for something else, or all of them."""
        others = [column for column in self.columns if column and column not in self.settings.columns.named().values()]
        close = [another for another in others if another.lower() == name.lower()] or difflib.get_close_matches(
            name, others, n=1
        )
        shown_names = shorten(
            ", ".join(self.columns[:_SHOWN]) + (", ..." if len(self.columns) > _SHOWN else ""), _MOST_SHOWN
        )
        return f"; did you mean {close[0]!r}?" if close else f"; its columns: {shown_names}"

    def _check_type(self, column: str, name: str) -> None:
        """A Parquet column that would be read as something else is a `UserError`."""
        same = [column_name for column_name in self.columns if column_name.lower() == name.lower()]
        if len(same) > 1:
            raise UserError(
                f"{self.shown}: column {name!r} occurs twice (as {', '.join(map(repr, same))}; case does not "
                "count); rename one"
            )
        kind = self.schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if column == "time_text" and (pa.types.is_float16(kind) or pa.types.is_float32(kind)):
            raise UserError(
                f"{self.shown}: column {name!r} holds times as {kind}, which cuts unix seconds to minutes; "
                "write it as whole numbers or 64-bit floats"
            )
        if pa.types.is_nested(kind) or any(test(kind) for test in _BINARY):
            raise UserError(f"{self.shown}: column {name!r} holds {kind}; expected text or numbers")
        if column.endswith("_id") and pa.types.is_floating(kind):
            raise UserError(
                f"{self.shown}: column {name!r} holds ids as {kind}, so that 1 becomes 1.0; write it as whole "
                "numbers or text"
            )

    def lines_of(self, columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> list[str]:
        """For each row of texts the first record with these in `columns`, as "line 12: fields"; for messages: it scans
        the file, once."""
        if self.format == "parquet":
            return [str(dict(zip(columns, row, strict=True))) for row in rows]
        indices = [self.columns.index(name) for name in columns]
        wanted = [tuple((text or "").replace("\0", "") for text in row) for row in rows]
        line_of: dict[tuple[str, ...], str] = {}
        try:
            for line, fields in self.records():
                if (
                    len(fields) == len(self.columns)
                    and (key := tuple(fields[index] for index in indices)) in wanted
                    and key not in line_of
                ):
                    line_of[key] = f"line {line}: {self.delimiter.join(fields)}"
                    if len(line_of) == len(set(wanted)):
                        break
        except csv.Error:  # a field beyond the limit of Python's reader
            pass
        except (OSError, EOFError, zlib.error) as error:  # DuckDB reads on where the bytes of a gzip file are damaged
            raise UserError(f"{self.shown}: damaged ({one_line(error)}); fetch the file again") from error
        return [
            line_of.get(key, str(dict(zip(columns, row, strict=True)))) for key, row in zip(wanted, rows, strict=True)
        ]
