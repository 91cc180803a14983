"""Runs the plain SQL of `sql/` on DuckDB, of which this is the only importer; `spark_engine.py` runs the same SQL on
Spark.

The SQL, and that of the steps and of `explain`, keeps to what `sqlglot` carries over to Spark SQL: window functions,
joins, `list_sort(array_agg(struct_pack(...)))`, `array_length`; parameters live in the table `sources`. An engine must
supply one function of its own: `hash60(text)`, the first 60 bits of the MD5 of the UTF-8 text as a BIGINT, which every
engine can compute alike (`cprec_jax.corpus.hash60` is the same in Python).
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from cprec_jax.errors import UserError, one_line
from data_prep.rejects import SAMPLES

SQL_FOLDER = Path(__file__).parent / "sql"
BATCH_ROWS = 100_000

EngineError = duckdb.Error
MIXED_LINE_ENDS = "invalid state"  # what DuckDB's reader says of lines that end otherwise than the first ones
_PATTERN = set("*?[]{}\\")
_FULL_DISK = ("No space left", "Disk quota exceeded", "File too large")  # as the operating system says it


def quoted(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _read_csv(path: Path, dialect: str, columns: str, gzipped: bool) -> str:
    """The table function for a delimited file; lines it cannot split go to the table `reject_errors`."""
    return (
        f"read_csv({quoted(str(path))}, auto_detect = false, hive_partitioning = false, {dialect}, "
        f"compression = '{'gzip' if gzipped else 'none'}', "
        f"columns = {{{columns}}}, store_rejects = true, rejects_limit = 0)"
    )


def lines_of_row(columns: Sequence[str]) -> str:
    """SQL: how many lines, blank ones not counted, the row of a delimited file took that has these fields."""
    return f"1 + len(regexp_extract_all(concat_ws(chr(31), {', '.join(columns)}), '[\\r\\n]+'))"


class OpenQuote(Exception):
    """A quote that swallows lines: it opens in the record that begins at the byte `place`, counted from 0, and takes
    `n_lines` with it."""

    def __init__(self, start: int, n_lines: int):
        super().__init__(start, n_lines)
        self.start, self.n_lines = start, n_lines


def statements(name: str) -> list[str]:
    """The statements of `sql/NAME.sql` in order."""
    lines = (SQL_FOLDER / f"{name}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--")).split(";")


class Relational(Protocol):
    """What the steps ask of an engine. `loader` is the DuckDB in which adapters fill the tables of `sql/tables.sql`."""

    loader: "Engine"

    def share(self, *tables: str) -> None:
        """Make tables of the loader, as they are now, visible to the SQL of the steps."""
        ...

    def execute(self, sql: str) -> None:
        """Run one statement. Too little memory or disk is a `UserError`."""
        ...

    def script(self, name: str) -> None:
        """Run the statements of `sql/NAME.sql` in order."""
        ...

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a SMALL query."""
        ...

    def value(self, sql: str) -> Any:
        """The single value of a query."""
        ...

    def write_parquet(self, sql: str, path: Path) -> None:
        """Write a query's result as one Parquet file, in the query's order, without passing through Python."""
        ...

    def close(self) -> None: ...


class Engine:
    """An embedded DuckDB in memory; what goes beyond `memory_limit` is spilled to `scratch`.

    Tables of a database file would be compressed as they are written, which took half of the time of `prepare`.
    """

    def __init__(self, scratch: Path, memory_limit: str = "4GB", threads: int | None = None):
        scratch.mkdir(parents=True, exist_ok=True)
        self._connection = duckdb.connect(":memory:")
        try:
            self._connection.execute(f"SET memory_limit = {quoted(memory_limit)}")
        except duckdb.Error as error:
            raise UserError(
                f"config.corpus.memory_limit: {memory_limit!r} is not a size such as '4GB' ({one_line(error)})"
            ) from error
        if threads:
            self._connection.execute(f"SET threads = {int(threads)}")
        self._connection.execute(f"SET temp_directory = {quoted(str(scratch / 'spill'))}")
        self._connection.execute("SET enable_progress_bar = false")
        # A Parquet time with a zone would be written in the zone of the process's environment.
        self._connection.execute("SET TimeZone = 'UTC'")
        # DuckDB takes some characters of a path for patterns, and knows no way to write them otherwise: files are read
        # through links.
        self._files = Path(
            tempfile.mkdtemp(
                prefix="files-", dir=None if _PATTERN & set(str(scratch.absolute())) else scratch.absolute()
            )
        )
        self._n_files = 0
        self._connection.execute("CREATE MACRO hash60(x) AS ('0x' || substr(md5(x), 1, 15))::BIGINT")
        self.loader = self

    def close(self) -> None:
        self._connection.close()
        shutil.rmtree(self._files, ignore_errors=True)

    def new_file(self) -> Path:
        """A path for a file that lasts as long as the engine; DuckDB sees no pattern in it."""
        self._n_files += 1
        return self._files / str(self._n_files)

    def link(self, path: Path) -> Path:
        """`new_file` that leads to `path`."""
        link = self.new_file()
        link.symlink_to(path.absolute())
        return link

    def share(self, *tables: str) -> None:
        """Nothing to do: loader and steps are one."""

    def execute(self, sql: str) -> None:
        """Run one statement. Too little memory or disk is a `UserError`."""
        self._ask(sql)

    def _ask(self, sql: str) -> Any:
        try:
            return self._connection.execute(sql)
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            text = one_line(error)
            if isinstance(error, duckdb.IOException) and not any(sign in text for sign in _FULL_DISK):
                raise
            if isinstance(error, duckdb.OutOfMemoryException) and "max_temp_directory_size" not in text:
                raise UserError(
                    f"config.corpus.memory_limit: too small for this data ({text[:160]}); raise it"
                ) from error
            raise UserError(
                f"the disk is full ({text[:160]}); free some space and run again (nothing was replaced)"
            ) from error

    def script(self, name: str) -> None:
        """Run the statements of `sql/NAME.sql` in order."""
        for statement in statements(name):
            self.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a SMALL query."""
        return self._ask(sql).fetchall()

    def value(self, sql: str) -> Any:
        """The single value of a query."""
        return self.rows(sql)[0][0]

    def batches(self, sql: str, n_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """A query's result in pieces, for data that must not sit in memory whole. Other queries may run between
        them."""
        yield from self._connection.cursor().sql(sql).to_arrow_reader(n_rows)

    def insert(self, name: str, columns: Sequence[str], data: pa.Table | pa.RecordBatch) -> None:
        """Append Arrow columns to an existing table."""
        arrow_rows = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
        self._connection.register("arrow_rows", arrow_rows)
        names = ", ".join(map(identifier, columns))
        self._connection.execute(f"INSERT INTO {identifier(name)} ({names}) SELECT {names} FROM arrow_rows")
        self._connection.unregister("arrow_rows")

    def write_parquet(self, sql: str, path: Path) -> None:
        """Write a query's result as Parquet, in the query's order, without passing through Python."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.execute(f"COPY ({sql}) TO {quoted(str(path))} (FORMAT parquet, COMPRESSION zstd)")

    def stage_parquet(self, path: Path, columns: Mapping[str, str]) -> None:
        """Read columns (our name -> the file's) of a Parquet file as text into the table `staged`. `path` holds no
        pattern (see `link`)."""
        # Nothing is read out of the names of folders: a folder `timestamp=1` would take the place of the column.
        self._stage(f"read_parquet({quoted(str(path))}, hive_partitioning = false)", columns)

    def stage_delimited(
        self,
        path: Path,
        columns: Mapping[str, str],
        header: Sequence[str],
        delimiter: str,
        quote: str,
        gzipped: bool,
        has_header: bool = True,
        encoding: str = "utf-8",
        skip: int = 0,
    ) -> list[tuple[str, int, list[str]]]:
        """The same for delimited text with these columns, after `skip` lines. Returns malformed lines as (what, how
        many, first few).

        Each of the first few is "line 7: text". Where records over several lines were refused, all of their lines
        count; `OpenQuote` if that comes of a quote.
        """
        names = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in header)
        dialect = (
            f"header = {has_header}, delim = {quoted(delimiter)}, quote = {quoted(quote)}, escape = {quoted(quote)}"
        )
        reader = _read_csv(path, f"{dialect}, skip = {skip}, encoding = {quoted(encoding)}", names, gzipped)
        self._stage(reader, columns)
        # DuckDB gives one line number, and at most 10,000 bytes, for all that a quote swallowed. So the lines are
        # counted.
        first = (
            self.value("SELECT min(line_byte_position) FROM reject_errors WHERE error_type = 'UNQUOTED VALUE'")
            if quote
            else None
        )
        several = "SELECT count(*) FROM reject_errors WHERE regexp_matches(csv_line, '^$|[\\r\\n]')"
        count_all = quote and (first is not None or self.value(several))
        malformed = self._malformed()[0]
        if count_all:
            read = self.value(
                f"SELECT coalesce(sum({lines_of_row([identifier(name) for name in header])}), 0) FROM {reader}"
            )
            self._malformed()
            swallowed = self._n_lines(path, gzipped) - read - has_header - skip - sum(n for _, n, _ in malformed)
            if swallowed > 0 and first is not None:
                raise OpenQuote(first, swallowed)
            if swallowed > 0:
                malformed.append(
                    (
                        "more lines of the same records",
                        swallowed,
                        [sample for _, _, shown in malformed for sample in shown],
                    )
                )
        return malformed

    def _n_lines(self, path: Path, gzipped: bool) -> int:
        """Lines that are not blank, as `stage_lines` reads them."""
        malformed, _ = self.stage_lines(path, "nullif(line IS NOT NULL, false) AS filled", "1", gzipped, "counted")
        n = self.value("SELECT count(filled) FROM counted") + sum(n for _, n, _ in malformed)
        self.execute("DROP TABLE counted")
        return int(n)

    def stage_lines(
        self, path: Path, select: str, values: str, gzipped: bool, table: str = "staged"
    ) -> tuple[list[tuple[str, int, list[str]]], list[int]]:
        """Read a text file line by line into `table`: the expressions `select` over the columns `line` (NULL if empty)
        and `values`.

        Returns malformed lines as `stage_delimited` does, and the numbers of the lines that made no row, at most a
        million of them.
        """
        self.execute(f"DROP TABLE IF EXISTS {table}")
        # DuckDB wants a delimiter even for one column. A single byte would cut a damaged line that holds it, and a line
        # that begins with it would look empty; four control characters in a row, the most it takes, do not occur.
        # Not strict: a carriage return amid lines that end otherwise would stop the reader.
        dialect = "header = false, delim = '\x01\x02\x03\x04', quote = '', escape = '', strict_mode = false"
        reader = _read_csv(path, dialect, "'line': 'VARCHAR'", gzipped)
        self.execute(f"CREATE TABLE {table} AS SELECT {select} FROM (SELECT line, {values} FROM {reader}) AS lines")
        return self._malformed()

    def _malformed(self) -> tuple[list[tuple[str, int, list[str]]], list[int]]:
        kind = "lower(CAST(error_type AS VARCHAR))"
        malformed = []
        for what, n in self.rows(f"SELECT {kind}, count(DISTINCT line) FROM reject_errors GROUP BY 1 ORDER BY 1"):
            first = self.rows(
                f"SELECT DISTINCT line, csv_line FROM reject_errors WHERE {kind} = {quoted(what)} ORDER BY line LIMIT "
                f"{SAMPLES}"
            )
            malformed.append((what, n, [f"line {line}: {text.strip()}" for line, text in first]))
        lines = [line for (line,) in self.rows("SELECT DISTINCT line FROM reject_errors ORDER BY line LIMIT 1000000")]
        self.execute("DROP TABLE reject_errors")
        self.execute("DROP TABLE reject_scans")
        return malformed, lines

    def _stage(self, reader: str, columns: Mapping[str, str]) -> None:
        chosen = ", ".join(f"CAST({identifier(name)} AS VARCHAR) AS {alias}" for alias, name in columns.items())
        self.execute("DROP TABLE IF EXISTS staged")
        self.execute(f"CREATE TABLE staged AS SELECT {chosen} FROM {reader}")
