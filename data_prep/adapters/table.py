"""The generic table: CSV, TSV or Parquet, gzipped or not, one file of interactions and one of titles.

DuckDB streams the files from disk; Python only ever sees the header and, when lines are bad, the few it shows.
"""

import csv
import io
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from cprec_jax.errors import UserError, one_line
from cprec_jax.spec import nearest
from data_prep.adapters.raw_file import check_lines, is_gzip, line_of_byte, mixed_line_ends, open_bytes
from data_prep.engine import MIXED_LINE_ENDS, Engine, EngineError, OpenQuote, lines_of_row, quoted
from data_prep.rejects import SAMPLES, Rejects
from data_prep.spec import CorpusSpec, Order, SourceSpec, source_path

_FORMATS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".txt": "tsv", ".parquet": "parquet"}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
# TSV of the field holds raw quotes (24" TV) and no quoting; CSV quotes as RFC 4180 says.
_QUOTES = {"csv": '"', "tsv": ""}
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
LATEST_SECONDS = 4_102_444_800  # the year 2100: later means another unit


class TableAdapter:
    def __init__(self, spec: CorpusSpec):
        self.spec = spec

    def files(self, source: SourceSpec) -> dict[str, Path]:
        return {"interactions": source_path(self.spec.root, source, "interactions"), "items": source_path(self.spec.root, source, "items")}

    def load(self, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
        files = self.files(source)
        items = TableFile(files["items"], source, "items")
        items.stage({"item_id": source.columns.item, "title": source.columns.title}, engine, rejects)
        load_items(items, domain, source.columns.item, engine, rejects)
        interactions = TableFile(files["interactions"], source, "interactions")
        time, order = time_column(interactions.columns, source)
        names = {"user_id": source.columns.user, "item_id": source.columns.item, "time_text": time}
        interactions.stage(names, engine, rejects)
        load_interactions(interactions.examples(names), domain, order, source.time_unit, engine, rejects)
        engine.execute("DROP TABLE staged")
        return order


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A delimited file without a header line, as a platform publishes it."""

    columns: tuple[str, ...]
    delimiter: str
    quote: str = ""
    encoding: str = "utf-8"


class TableFile:
    """One delimited or Parquet file: its header (or the `layout` that stands for it), and how DuckDB reads it."""

    def __init__(self, path: Path, source: SourceSpec, which: str, layout: Layout | None = None):
        self.path, self.which, self.layout = path, which, layout
        self.where = f"config.corpus.sources.{source.name}"
        if layout is not None:
            self.format = "text"
            self.delimiter, self.quote, self.encoding = layout.delimiter, layout.quote, layout.encoding
        else:
            self.format = source.format if source.format != "auto" else self._format_of_name()
            self.delimiter, self.quote, self.encoding = _DELIMITERS.get(self.format, ""), _QUOTES.get(self.format, ""), "utf-8"
        self.gzipped = is_gzip(path)
        self.columns = self._header()

    def _format_of_name(self) -> str:
        suffixes = [suffix for suffix in self.path.suffixes if suffix.lower() != ".gz"]
        last = suffixes[-1].lower() if suffixes else ""
        if last not in _FORMATS:
            raise UserError(f"{self.path}: cannot tell its format by its name; set {self.where}.format to 'csv', 'tsv' or 'parquet'")
        return _FORMATS[last]

    def open_text(self) -> TextIO:
        return io.TextIOWrapper(open_bytes(self.path), self.encoding.replace("utf-8", "utf-8-sig"), errors="replace", newline="")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """(line number from 1, fields) of a delimited file, header included."""
        with self.open_text() as stream:
            lines = (line.replace("\0", "") for line in stream)
            if len(self.delimiter) > 1:
                yield from ((n, line.rstrip("\r\n").split(self.delimiter)) for n, line in enumerate(lines, 1))
                return
            reader = csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE)
            for fields in reader:
                yield reader.line_num, fields

    def _header(self) -> list[str]:
        try:
            if self.format == "parquet":
                self.schema = pq.read_schema(self.path)
                return self.schema.names
            header = next(self.records(), None)
        except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:
            raise UserError(f"{self.path}: damaged or not a {self.format} file ({one_line(error)})") from error
        if header is None or not any(header[1]):
            expected = "a header line with column names" if self.layout is None else "one record a line"
            raise UserError(f"{self.path}: the file is empty; expected {expected}")
        if self.layout is not None:
            return list(self.layout.columns)
        names = header[1]
        for name in names:
            if name and names.count(name) > 1:
                raise UserError(f"{self.path}: column {name!r} occurs twice in the header; rename one")
        return names

    def stage(self, wanted: dict[str, str], engine: Engine, rejects: Rejects) -> None:
        """Read the wanted columns (ours -> the file's) as text into the table `staged`; malformed lines go to `rejects`."""
        for ours, theirs in wanted.items():
            if theirs not in self.columns:
                option = "time" if ours == "time_text" else ours.removesuffix("_id")
                hint = f"{nearest(theirs, self.columns)} (set {self.where}.columns.{option} to the file's name for it)"
                raise UserError(one_line(f"{self.path}: no column {theirs!r}{hint}"))  # a damaged header may hold line breaks
            if self.format == "parquet":
                self._check_type(ours, theirs)
        try:
            if self.format == "parquet":
                engine.stage_parquet(self.path, wanted)
                malformed = []
            else:
                check_lines(self.path)
                named = self.layout is None
                # By place: a header may hold columns without a name, or names that differ only in case, which are one to DuckDB.
                names = [f"column {n}" for n in range(len(self.columns))]
                chosen = {ours: names[self.columns.index(theirs)] for ours, theirs in wanted.items()}
                malformed = engine.stage_delimited(self.path, chosen, names, self.delimiter, self.quote, self.gzipped, named, self.encoding)
        except OpenQuote as error:
            n, lost = line_of_byte(self.path, error.place), error.n_lines
            raise UserError(
                f"{self.path}: line {n}: a quote opens a field there and is not closed as it should be, which would lose {lost:,} lines; "
                "mend the line (a quote within a quoted field is doubled)"
            ) from error
        except EngineError as error:
            if MIXED_LINE_ENDS in str(error) and (where := mixed_line_ends(self.path)):
                raise UserError(f"{self.path}: mixed line ends: {where}; make them alike") from error
            raise UserError(f"{self.path}: cannot be read; truncated or not a {self.format} file? ({one_line(error)[:200]})") from error
        for what, n, samples in malformed:
            rejects.bad_lines(f"malformed line: {what}", n, str(self.path), samples)
        if not engine.value("SELECT count(*) FROM staged"):
            after = " after the header" if self.layout is None else ""
            raise UserError(f"{self.path}: no readable rows{after}; an empty {self.which} file makes no corpus")

    def _check_type(self, ours: str, theirs: str) -> None:
        """A Parquet column that would be read as something else is a `UserError`."""
        same = [name for name in self.columns if name.lower() == theirs.lower()]
        if len(same) > 1:
            raise UserError(
                f"{self.path}: column {theirs!r} occurs twice (as {', '.join(map(repr, same))}; case does not count); rename one"
            )
        kind = self.schema.field(theirs).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_nested(kind) or any(test(kind) for test in _BINARY):
            raise UserError(f"{self.path}: column {theirs!r} holds {kind}; expected text or numbers")
        if ours.endswith("_id") and pa.types.is_floating(kind):
            raise UserError(f"{self.path}: column {theirs!r} holds ids as {kind}, so that 1 becomes 1.0; write it as whole numbers or text")

    def lines_of(self, columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> list[str]:
        """For each row of texts the first record with these in `columns`, as "line 12: fields"; for messages: it scans the file, once."""
        if self.format == "parquet":
            return [str(dict(zip(columns, row, strict=True))) for row in rows]
        places = [self.columns.index(name) for name in columns]
        wanted = [tuple((text or "").replace("\0", "") for text in row) for row in rows]
        found: dict[tuple[str, ...], str] = {}
        try:
            for line, fields in self.records():
                if len(fields) == len(self.columns) and (key := tuple(fields[place] for place in places)) in wanted and key not in found:
                    found[key] = f"line {line}: {self.delimiter.join(fields)}"
                    if len(found) == len(set(wanted)):
                        break
        except csv.Error:  # a field beyond the limit of Python's reader
            pass
        except (OSError, EOFError, zlib.error) as error:  # DuckDB reads on where the bytes of a gzip file are damaged
            raise UserError(f"{self.path}: damaged ({one_line(error)}); fetch the file again") from error
        return [found.get(key, str(dict(zip(columns, row, strict=True)))) for key, row in zip(wanted, rows, strict=True)]

    def examples(self, names: Mapping[str, str]) -> "Examples":
        """For messages: finds refused rows of `parsed` in this file by the columns `names` (ours -> the file's)."""
        return _TableExamples(self, names)


class Examples(Protocol):
    """Where rows come from, and how to show some of them."""

    @property
    def path(self) -> Path: ...

    @property
    def multiline(self) -> bool:
        """Whether a field may go over several lines, as it does where a quote is not closed."""
        ...

    def of(self, engine: Engine, condition: str) -> list[str]:
        """The first few rows of `parsed` that meet `condition`, as "line 12: text"."""
        ...


@dataclass(frozen=True)
class _TableExamples:
    file: TableFile
    names: Mapping[str, str]

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def multiline(self) -> bool:
        return bool(self.file.quote)

    def of(self, engine: Engine, condition: str) -> list[str]:
        ours = ", ".join(self.names)
        if self.file.format == "parquet":
            found = engine.rows(f"SELECT place + 1, {ours} FROM parsed WHERE {condition} ORDER BY place LIMIT {SAMPLES}")
            return [f"row {row}: {dict(zip(self.names.values(), values, strict=True))}" for row, *values in found]
        shown = engine.rows(f"SELECT DISTINCT {ours} FROM parsed WHERE {condition} ORDER BY ALL LIMIT {SAMPLES}")
        return self.file.lines_of(list(self.names.values()), shown)


def time_column(columns: Collection[str], source: SourceSpec) -> tuple[str, Order]:
    """Which column holds the time, and whether it is a clock or only an order."""
    name = source.columns.time
    if name is None:
        candidates = ("timestamp", "position") if source.order == "auto" else (source.order,)
        present = [candidate for candidate in candidates if candidate in columns]
        name = present[0] if present else candidates[0]
    if source.order != "auto":
        return name, source.order
    return name, "position" if name == "position" else "timestamp"


def load_items(file: TableFile, domain: int, id_column: str, engine: Engine, rejects: Rejects) -> None:
    """Rows of `staged` (item_id, title) -> `raw_items`."""
    without_id = "item_id IS NULL OR item_id = ''"
    n = engine.value(f"SELECT count(*) FROM staged WHERE {without_id}")
    if n:
        rejects.bad_lines("item without id", n, str(file.path), file.lines_of([id_column], [[None]]))
    broken = _broken("item_id") if file.quote else "false"
    if file.quote and (n := engine.value(f"SELECT {_lines('item_id', 'title')} FROM staged WHERE {broken}")):
        shown = engine.rows(f"SELECT item_id FROM staged WHERE {broken} LIMIT {SAMPLES}")
        rejects.bad_lines("line break in item", n, str(file.path), file.lines_of([id_column], shown))
    engine.execute(f"INSERT INTO raw_items SELECT {domain}, item_id, title FROM staged WHERE NOT ({without_id} OR {broken})")


def _broken(column: str) -> str:
    """SQL: the text goes over several lines. No id does; a quote that a later line closes makes it look so."""
    return f"(contains({column}, chr(10)) OR contains({column}, chr(13)))"


def _lines(*columns: str) -> str:
    """SQL: how many lines of the file these rows took."""
    return f"coalesce(sum({lines_of_row(columns)}), 0)::BIGINT"


def load_interactions(
    examples: Examples, domain: int, order: Order, time_unit: str, engine: Engine, rejects: Rejects, rows: str | None = None
) -> None:
    """Rows with text columns (place, user_id, item_id, time_text) -> `raw_interactions`; `rows` is a query, by default all of `staged`."""
    # A query may be dear (JSON): its rows are kept. Columns of `staged` are looked at again where there are defects.
    kind = "TABLE" if rows else "VIEW"
    rows = rows or "SELECT rowid AS place, user_id, item_id, time_text FROM staged"
    per_second = 1000 if time_unit == "ms" and order == "timestamp" else 1
    # Whole numbers, numbers with a fraction (rounded), or ISO dates such as a Parquet TIMESTAMP column gives.
    number = "coalesce(TRY_CAST(time_text AS BIGINT), TRY_CAST(floor(TRY_CAST(time_text AS DOUBLE)) AS BIGINT))"
    date = "TRY_CAST(floor(epoch(TRY_CAST(time_text AS TIMESTAMP))) AS BIGINT)" if order == "timestamp" else "NULL"
    broken = {column: _broken(column) if examples.multiline else "false" for column in ("user_id", "item_id")}
    whole = "".join(f" AND NOT {condition}" for condition in broken.values() if examples.multiline)
    # The first condition says nothing new: it settles nearly all rows at one look.
    engine.execute(f"""
        CREATE {kind} parsed AS SELECT place, user_id, item_id, time_text, time // {per_second} AS time, CASE
            WHEN user_id <> '' AND item_id <> '' AND time BETWEEN 0 AND {LATEST_SECONDS}{whole} THEN NULL
            WHEN user_id IS NULL OR user_id = '' THEN 'missing user'
            WHEN item_id IS NULL OR item_id = '' THEN 'missing item'
            WHEN {broken["user_id"]} THEN 'line break in user'
            WHEN {broken["item_id"]} THEN 'line break in item'
            WHEN time IS NULL THEN 'unparsable {order}'
            WHEN time < 0 THEN 'negative {order}'
            WHEN {order == "timestamp"} AND time // {per_second} > {LATEST_SECONDS} THEN 'timestamp after the year 2100 (time_unit wrong?)'
        END AS defect
        FROM (SELECT *, coalesce({number}, {date} * {per_second}) AS time FROM ({rows}) AS given) AS timed""")
    good = f"SELECT {domain}, user_id, item_id, time, place FROM parsed WHERE defect IS NULL"
    if engine.value(f"INSERT INTO raw_interactions {good}") < engine.value("SELECT count(*) FROM parsed"):
        n_lines = _lines("user_id", "item_id", "time_text") if examples.multiline else "count(*)"
        for defect, n in engine.rows(f"SELECT defect, {n_lines} FROM parsed WHERE defect IS NOT NULL GROUP BY 1 ORDER BY 1"):
            rejects.bad_lines(defect, n, str(examples.path), examples.of(engine, f"defect = {quoted(defect)}"))
    engine.execute(f"DROP {kind} parsed")
