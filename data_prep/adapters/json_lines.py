"""Files with one record a line, JSON or a Python literal (old Amazon dumps print Python dicts), gzipped or not.

DuckDB reads the lines and takes the fields out of whatever is JSON. Only the lines that are not pass through Python, a
few thousand at a time, where `ast.literal_eval` reads them: it knows literals and nothing else, so a file cannot run
code.
"""

import ast
import io
import itertools
import json
import warnings
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from cprec_jax.errors import UserError, one_line, shown
from data_prep.adapters.raw_file import check_lines
from data_prep.adapters.source_file import SourceFile
from data_prep.engine import Engine, EngineError, quoted
from data_prep.rejects import SAMPLES, Rejects

_PROBED = 5  # lines
BATCH_LINES = 2_000  # a line of metadata may have 10 kB
Kind = Literal["text", "time"]
NOT_A_RECORD = "malformed line: neither JSON nor a Python literal"
_FIRST_CHARACTERS: dict[Kind, str] = {"text": '"', "time": '"-0123456789'}  # of the JSON values that are taken


class JsonLines:
    """One file. `fields`: our column -> (what it holds, the names it has in the file; the first one present counts)."""

    multiline = False

    def __init__(self, path: Path, which: str, fields: Mapping[str, tuple[Kind, Sequence[str]]]):
        self.path, self.which, self.fields = path, which, fields
        self.file = SourceFile(path, "")
        self._refused_lines: list[int] = []

    def stage(self, engine: Engine, rejects: Rejects) -> str:
        """Read the file into `staged`; returns a query for the usable records: place, then our columns as text (NULL
        where absent).

        `place` is for `line_number`. Lines that are no record, and records with a field of the wrong type, go to
        `rejects`.
        """
        self._refuse_other_text()
        readable = self.file.readable(engine)
        check_lines(readable.path)
        try:
            malformed, self._refused_lines = engine.stage_lines(
                readable.link, self._select(), self._values(), readable.gzipped
            )
        except EngineError as error:
            raise UserError(
                f"{shown(self.path)}: cannot be read; truncated or not text? ({one_line(error)[:200]})"
            ) from error
        for what, n, samples in malformed:
            rejects.bad_lines(f"malformed line: {what}", n, str(self.path), samples, self.which)
        self._read_the_rest(engine, rejects)
        for wrong, n in engine.rows("SELECT wrong, count(*) FROM staged WHERE wrong IS NOT NULL GROUP BY 1 ORDER BY 1"):
            query = (
                f"SELECT coalesce(place, rowid) FROM staged WHERE wrong = {quoted(wrong)} ORDER BY 1 LIMIT {SAMPLES}"
            )
            rejects.bad_lines(
                f"wrong type: {wrong}",
                n,
                str(self.path),
                self._shown([row for (row,) in engine.rows(query)]),
                self.which,
            )
        usable = "FROM staged WHERE rest IS NULL AND wrong IS NULL"
        if not engine.value(f"SELECT count(*) {usable}"):
            raise UserError(f"{shown(self.path)}: no readable records; {rejects.why_nothing(self.which)}")
        return f"SELECT coalesce(place, rowid) AS place, {', '.join(self.fields)} {usable}"

    def line_number(self, row: int) -> int:
        """The line, counted from 1, that made the row `place`, counted from 0: lines that made no row lie between."""
        line = row + 1
        while (shifted := row + 1 + bisect_right(self._refused_lines, line)) != line:
            line = shifted
        return line

    def of(self, engine: Engine, condition: str) -> list[str]:
        """As `adapters.table.Examples`: the first few rows of `parsed` that meet `condition`."""
        return self._shown(
            [
                row
                for (row,) in engine.rows(f"SELECT place FROM parsed WHERE {condition} ORDER BY place LIMIT {SAMPLES}")
            ]
        )

    def _refuse_other_text(self) -> None:
        """A file of something else, of which every line would be a bad one, is a `UserError` that says what it is."""
        if self.file.is_parquet:
            raise UserError(f"{shown(self.path)}: a Parquet file and no JSON; adapter 'table' reads it")
        try:
            first = [line for _, line in self._lines(set(range(1, _PROBED + 1))) if line]
        except (OSError, EOFError, zlib.error):  # the reader says more
            return
        if not first:
            return
        if first[0] == "{" or first[0].startswith("["):
            raise UserError(
                f"{shown(self.path)}: one JSON value over the whole file; write one record a line (`jq -c '.[]' FILE`)"
            )
        if not any(line.startswith("{") for line in first):
            raise UserError(
                f"{shown(self.path)}: no JSON records but {first[0][:60]!r}; adapter 'table' reads CSV, TSV and Parquet"
            )

    def _values(self) -> str:
        """The column `v`: a list of the fields' JSON texts, NULL if the line is no JSON."""
        paths = ", ".join(quoted(f"$.{name}") for _, names in self.fields.values() for name in names)
        return f"CASE WHEN json_valid(line) THEN CAST(json_extract(line, [{paths}]) AS VARCHAR[]) END AS v"

    def _select(self) -> str:
        """What is kept of a line: our columns, `wrong` (what has the wrong type), `rest` (the line if it is no JSON, ''
        if blank)."""
        columns, wrong, first = [], [], 1
        for column, (kind, names) in self.fields.items():
            given = [f"nullif(v[{n}], 'null')" for n in range(first, first + len(names))]
            value = f"coalesce({', '.join(given)})"
            allowed = f"contains({quoted(_FIRST_CHARACTERS[kind])}, left({value}, 1))"
            columns.append(f"CASE WHEN {allowed} THEN CAST({value} AS JSON) ->> '$' END AS {column}")
            wrong.append(f"WHEN NOT {allowed} THEN {quoted(_wrong(names, kind))}")
            first += len(names)
        blank = "line IS NULL OR trim(line, ' ' || chr(9) || chr(13)) = ''"
        rest = f"CASE WHEN {blank} THEN '' WHEN NOT json_valid(line) THEN line END"
        return (
            f"{', '.join(columns)}, CASE {' '.join(wrong)} END AS wrong, {rest} AS rest, CAST(NULL AS BIGINT) AS place"
        )

    def _read_the_rest(self, engine: Engine, rejects: Rejects) -> None:
        columns = [*self.fields, "wrong", "place"]
        schema = pa.schema([(name, pa.int64() if name == "place" else pa.string()) for name in columns])
        n_bad, first_bad = 0, []
        for batch in engine.batches("SELECT rowid AS place, rest FROM staged WHERE rest <> ''", BATCH_LINES):
            records = []
            for row, line in zip(batch["place"].to_pylist(), batch["rest"].to_pylist(), strict=True):
                values = read_record(line)
                if values is not None:
                    records.append({**self._checked(values), "place": row})
                    continue
                n_bad += 1
                first_bad += [row] if n_bad <= SAMPLES else []
            engine.insert("staged", columns, pa.Table.from_pylist(records, schema))
            if n_bad > rejects.max_bad_lines:
                break
        if n_bad:
            rejects.bad_lines(NOT_A_RECORD, n_bad, str(self.path), self._shown(first_bad), self.which)

    def _checked(self, values: Mapping[str, Any]) -> dict[str, str | None]:
        """The fields of one record as text, and under "wrong" what is wrong with it."""
        record: dict[str, str | None] = {"wrong": None}
        for column, (kind, names) in self.fields.items():
            value = next((values[name] for name in names if values.get(name) is not None), None)
            try:
                record[column] = (
                    str(value) if isinstance(value, str) or (kind == "time" and type(value) in (int, float)) else None
                )
            except ValueError:  # more digits than Python writes, out of a number that was given in hexadecimal
                record[column] = None
            if record[column] is None:
                record["wrong"] = record["wrong"] or (None if value is None else _wrong(names, kind))
        return record

    def _shown(self, rows: Sequence[int]) -> list[str]:
        wanted = {self.line_number(row) for row in rows}
        try:
            return [f"line {n}: {line}" for n, line in itertools.islice(self._lines(wanted), SAMPLES)]
        except (OSError, EOFError, zlib.error) as error:  # DuckDB reads on where the bytes of a gzip file are damaged
            raise UserError(f"{shown(self.path)}: damaged ({one_line(error)}); fetch the file again") from error

    def _lines(self, wanted: set[int]) -> Iterator[tuple[int, str]]:
        with self.file.open() as stream:
            text = io.TextIOWrapper(
                stream, encoding={"utf-8": "utf-8-sig"}.get(self.file.encoding, self.file.encoding), errors="replace"
            )
            for n, line in enumerate(itertools.islice(text, max(wanted, default=0)), 1):
                if n in wanted:
                    yield n, line.strip()


def read_record(line: str) -> dict[str, Any] | None:
    """The dict that a line of JSON (also with NaN) or a Python literal holds; None if it is neither, or holds text that
    is no Unicode."""
    if any(
        c < " " and c != "\t" for c in line.strip()
    ):  # JSON and Python literals write control characters escaped: this is damage
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old dumps escape what needs no escape
                value = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    if not isinstance(value, dict):
        return None
    try:
        "".join(text for text in value.values() if isinstance(text, str)).encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return None
    return value


def _wrong(names: Sequence[str], kind: Kind) -> str:
    return f"{names[0]} is no {'text' if kind == 'text' else 'number'}"
