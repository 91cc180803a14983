"""Runs the plain SQL of `sql/`. The only importer of DuckDB, so that another engine can take its place.

The SQL keeps to what `sqlglot` carries over to Spark SQL: window functions, joins, `list_sort(array_agg(struct_pack(...)))`; parameters live in
the table `sources`. An engine must supply one function of its own: `hash60(text)`, the first 60 bits of the MD5 of the UTF-8 text as a
BIGINT, which every engine can compute alike (see `hash60` below for the same in Python).
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from cprec_jax.errors import UserError, one_line

SQL_FOLDER = Path(__file__).parent / "sql"
BATCH_ROWS = 100_000


def hash60(text: str) -> int:
    """Non-negative integer below 2^60 from the MD5 of `text`; equal to the SQL function of this name."""
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:15], 16)


def user_key(platform: str, raw_user: str) -> int:
    """The corpus's user number: the same person on all domains of one platform. Equal to the expression in `sql/interactions.sql`."""
    return hash60(f"{platform}\x1f{raw_user}")


def quoted(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class Engine:
    """An embedded DuckDB with its file and its spill folder in `scratch`."""

    def __init__(self, scratch: Path, memory_limit: str = "4GB", threads: int | None = None):
        scratch.mkdir(parents=True, exist_ok=True)
        self._connection = duckdb.connect(str(scratch / "prepare.duckdb"))
        try:
            self._connection.execute(f"SET memory_limit = {quoted(memory_limit)}")
        except duckdb.Error as error:
            raise UserError(f"config.corpus.memory_limit: {memory_limit!r} is not a size such as '4GB' ({one_line(error)})") from error
        if threads:
            self._connection.execute(f"SET threads = {int(threads)}")
        self._connection.execute(f"SET temp_directory = {quoted(str(scratch / 'spill'))}")
        self._connection.execute("SET enable_progress_bar = false")
        self._connection.execute("CREATE MACRO hash60(x) AS ('0x' || substr(md5(x), 1, 15))::BIGINT")

    def close(self) -> None:
        self._connection.close()

    def execute(self, sql: str) -> None:
        """Run one statement."""
        try:
            self._connection.execute(sql)
        except duckdb.OutOfMemoryException as error:
            raise UserError(f"config.corpus.memory_limit: too small for this data ({one_line(error)}); raise it") from error

    def script(self, name: str) -> None:
        """Run the statements of `sql/NAME.sql` in order."""
        lines = (SQL_FOLDER / f"{name}.sql").read_text(encoding="utf-8").splitlines()
        for statement in "\n".join(line for line in lines if not line.startswith("--")).split(";"):
            self.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a SMALL query."""
        return self._connection.execute(sql).fetchall()

    def value(self, sql: str) -> Any:
        """The single value of a query."""
        return self.rows(sql)[0][0]

    def table(self, sql: str) -> pa.Table:
        """A query's result as flat Arrow columns, all in memory."""
        return self._connection.execute(sql).to_arrow_table()

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """A query's result in pieces, for data that must not sit in memory whole. Other queries may run between them."""
        yield from self._connection.cursor().execute(sql).to_arrow_reader(BATCH_ROWS)

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
