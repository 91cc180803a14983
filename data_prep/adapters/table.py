"""The generic table: CSV, TSV or Parquet, one or several files of interactions and of titles.

DuckDB streams the files from disk; Python only ever sees the header and, when lines are bad, the few it shows.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.source import Order, SourceSpec
from cprec_jax.errors import UserError
from data_prep.adapters.table_file import TableFile
from data_prep.adapters.times import (
    AFTER_2100,
    CUT_NUMBER,
    DATE_AS_NUMBER,
    EARLY,
    LATEST_SECONDS,
    MOST,
    NEARLY_ALL,
    REAL,
    is_date_and_clock,
    iso_seconds,
    no_unit,
    number,
)
from data_prep.engine import Engine, lines_of_row, quoted
from data_prep.rejects import SAMPLES, Rejects
from data_prep.source_files import source_paths

__all__ = ["LATEST_SECONDS", "TableAdapter", "TableExamples", "load_interactions", "load_items", "time_column"]


class TableAdapter:
    def __init__(self, spec: CorpusSpec):
        self.spec = spec

    def files(self, source: SourceSpec) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for which in ("interactions", "items"):
            paths = source_paths(self.spec.root, source, which)
            files |= {which if len(paths) == 1 else f"{which}[{n}]": path for n, path in enumerate(paths)}
        return files

    def load(self, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
        files = self._open(source)
        _refuse_unused(source, files)
        for file in files["items"]:
            columns = file.settings.columns.named()
            file.stage({"item_id": columns["item"], "title": columns["title"]}, engine, rejects)
            load_items(file, domain, columns["item"], engine, rejects)
        orders: dict[Order, Path] = {}
        first_place = 0
        for file in files["interactions"]:
            columns = file.settings.columns.named()
            time, order = time_column(file.columns, columns.get("time"), source.order)
            orders[order] = file.path
            if len(orders) > 1:
                raise UserError(
                    f"config.corpus.sources.{source.name}.interactions: {' and '.join(map(str, orders.values()))} "
                    "differ: one has "
                    "times and one positions; set order and columns.time"
                )
            if order == "position" and source.time_unit:
                raise UserError(
                    f"config.corpus.sources.{source.name}.time_unit: {file.shown} has positions, which have no unit; "
                    "leave it out"
                )
            names = {"user_id": columns["user"], "item_id": columns["item"], "time_text": time}
            if twice := [name for name in names.values() if list(names.values()).count(name) > 1]:
                raise UserError(
                    f"config.corpus.sources.{source.name}.columns: {twice[0]!r} is named for two of user, item and "
                    "time; name three columns"
                )
            file.stage(names, engine, rejects)
            examples = TableExamples(file, names, first_place)
            load_interactions(examples, domain, order, source.time_unit, engine, rejects, first_place=first_place)
            first_place += engine.value("SELECT count(*) FROM staged")
        _refuse_no_rows(source, files, first_place, domain, engine, rejects)
        engine.execute("DROP TABLE staged")
        return order

    def _open(self, source: SourceSpec) -> dict[str, list[TableFile]]:
        where = f"config.corpus.sources.{source.name}"
        paths = {
            "interactions": source_paths(self.spec.root, source, "interactions"),
            "items": source_paths(self.spec.root, source, "items"),
        }
        return {
            which: [TableFile(path, which, where, source.file(which), is_part=len(paths_of) > 1) for path in paths_of]
            for which, paths_of in paths.items()
        }


def _refuse_no_rows(
    source: SourceSpec,
    files: Mapping[str, list[TableFile]],
    n_interactions: int,
    domain: int,
    engine: Engine,
    rejects: Rejects,
) -> None:
    """Several files that together have no row: each of them may be empty, as parts that Spark writes are."""
    numbers = {
        "interactions": n_interactions,
        "items": engine.value(f"SELECT count(*) FROM raw_items WHERE domain = {domain}"),
    }
    for which, n in numbers.items():
        if not n:
            paths = ", ".join(file.shown for file in files[which][:SAMPLES])
            raise UserError(
                f"config.corpus.sources.{source.name}.{which}: no readable rows in {paths}; "
                f"{rejects.why_nothing(which)}"
            )


def _refuse_unused(source: SourceSpec, files: Mapping[str, list[TableFile]]) -> None:
    """Settings of delimited text where there is none."""
    text = {which: any(file.format != "parquet" for file in tables) for which, tables in files.items()}
    for key in ("delimiter", "quote", "header", "encoding"):
        for which, is_text in text.items():
            if not is_text and getattr(getattr(source.files, which), key) is not None:
                raise UserError(
                    f"config.corpus.sources.{source.name}.files.{which}.{key}: {files[which][0].shown} is Parquet; "
                    "leave it out"
                )
        if not any(text.values()) and getattr(source, key) is not None:
            raise UserError(f"config.corpus.sources.{source.name}.{key}: both files are Parquet; leave it out")


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
class TableExamples:
    """Refused rows of `parsed` in a `file`, found by the columns `names` (ours -> the file's)."""

    file: TableFile
    names: Mapping[str, str]
    first_place: int = 0

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def multiline(self) -> bool:
        return bool(self.file.quote)

    def of(self, engine: Engine, condition: str) -> list[str]:
        columns = ", ".join(self.names)
        if self.file.format == "parquet":
            rows = engine.rows(
                f"SELECT place + 1 - {self.first_place}, {columns} FROM parsed WHERE {condition} ORDER BY place LIMIT "
                f"{SAMPLES}"
            )
            return [f"row {row}: {dict(zip(self.names.values(), values, strict=True))}" for row, *values in rows]
        shown = engine.rows(
            f"SELECT {columns} FROM parsed WHERE {condition} GROUP BY {columns} ORDER BY min(place) LIMIT {SAMPLES}"
        )
        return self.file.lines_of(list(self.names.values()), shown)


def time_column(columns: Collection[str], name: str | None, wanted: str) -> tuple[str, Order]:
    """Which column holds the time, and whether it is a clock or only an order; `name` and `wanted` ("auto") are what
    the config says."""
    if name is None:
        candidates = ("timestamp", "position") if wanted == "auto" else (wanted,)
        present = [candidate for candidate in candidates if candidate in columns]
        name = present[0] if present else candidates[0]
    if wanted != "auto":
        return name, "position" if wanted == "position" else "timestamp"
    return name, "position" if name == "position" else "timestamp"


def load_items(file: TableFile, domain: int, id_column: str, engine: Engine, rejects: Rejects) -> None:
    """Rows of `staged` (item_id, title) -> `raw_items`."""
    without_id = "item_id IS NULL OR item_id = ''"
    n = engine.value(f"SELECT count(*) FROM staged WHERE {without_id}")
    if n:
        rejects.bad_lines("item without id", n, str(file.path), file.lines_of([id_column], [[None]]), "items")
    broken = _broken("item_id") if file.quote else "false"
    if file.quote and (n := engine.value(f"SELECT {_lines('item_id', 'title')} FROM staged WHERE {broken}")):
        shown = engine.rows(f"SELECT item_id FROM staged WHERE {broken} LIMIT {SAMPLES}")
        rejects.bad_lines("line break in item", n, str(file.path), file.lines_of([id_column], shown), "items")
    engine.execute(
        f"INSERT INTO raw_items SELECT {domain}, item_id, title FROM staged WHERE NOT ({without_id} OR {broken})"
    )


def _broken(column: str) -> str:
    """SQL: the text goes over several lines. No id does; a quote that a later line closes makes it look so."""
    return f"(contains({column}, chr(10)) OR contains({column}, chr(13)))"


def _lines(*columns: str) -> str:
    """SQL: how many lines of the file these rows took."""
    return f"coalesce(sum({lines_of_row(columns)}), 0)::BIGINT"


def load_interactions(
    examples: Examples,
    domain: int,
    order: Order,
    time_unit: str | None,
    engine: Engine,
    rejects: Rejects,
    rows: str | None = None,
    first_place: int = 0,
) -> None:
    """Rows with text columns (place, user_id, item_id, time_text) -> `raw_interactions`; `rows` is a query, by default
    all of `staged`, whose places begin at `first_place`."""
    # A query may be dear (JSON): its rows are kept. Columns of `staged` are looked at again where there are defects.
    kind = "TABLE" if rows else "VIEW"
    rows = rows or f"SELECT rowid + {first_place} AS place, user_id, item_id, time_text FROM staged"
    per_second = 1000 if time_unit == "ms" and order == "timestamp" else 1
    date = iso_seconds("time_text") if order == "timestamp" else "NULL"
    broken = {column: _broken(column) if examples.multiline else "false" for column in ("user_id", "item_id")}
    unbroken = "".join(f" AND NOT {condition}" for condition in broken.values() if examples.multiline)
    # The first condition says nothing new: it settles nearly all rows at one look.
    engine.execute(f"""
        CREATE {kind} parsed AS SELECT place, user_id, item_id, time_text, value, value // {per_second} AS time, CASE
            WHEN user_id <> '' AND item_id <> '' AND value BETWEEN 0 AND {LATEST_SECONDS}{unbroken} THEN NULL
            WHEN user_id IS NULL OR user_id = '' THEN 'missing user'
            WHEN item_id IS NULL OR item_id = '' THEN 'missing item'
            WHEN {broken["user_id"]} THEN 'line break in user'
            WHEN {broken["item_id"]} THEN 'line break in item'
            WHEN value IS NULL THEN 'unparsable {order}'
            WHEN value < 0 THEN 'negative {order}'
            WHEN {order == "timestamp"} AND {is_date_and_clock("value")} THEN {quoted(DATE_AS_NUMBER)}
            WHEN {order == "timestamp"} AND value // {per_second} > {LATEST_SECONDS} THEN {quoted(AFTER_2100)}
        END AS defect
        FROM (
            SELECT *, coalesce({number("time_text")}, {date} * {per_second}) AS value FROM ({rows}) AS given
        ) AS timed""")
    good = f"SELECT {domain}, user_id, item_id, time, place FROM parsed WHERE defect IS NULL"
    if engine.value(f"INSERT INTO raw_interactions {good}") < engine.value("SELECT count(*) FROM parsed"):
        n_lines = _lines("user_id", "item_id", "time_text") if examples.multiline else "count(*)"
        for defect, n in engine.rows(
            f"SELECT defect, {n_lines} FROM parsed WHERE defect IS NOT NULL GROUP BY 1 ORDER BY 1"
        ):
            rejects.bad_lines(defect, n, str(examples.path), examples.of(engine, f"defect = {quoted(defect)}"))
    if order == "timestamp":
        _refuse_other_units(examples, domain, "ms" if per_second > 1 else "s", engine, rejects, first_place)
        _refuse_cut_times(examples, domain, engine, rejects, first_place)
    engine.execute(f"DROP {kind} parsed")


def _refuse_other_units(
    examples: Examples, domain: int, unit: str, engine: Engine, rejects: Rejects, first_place: int
) -> None:
    """Take numbers that are a time in no unit, such as 20140105, out of `raw_interactions` again.

    A date of eight digits is none in any file; other numbers are where nearly all of the file are such, or most of it
    are real times.
    """
    loaded = f"FROM raw_interactions WHERE domain = {domain} AND (place IS NULL OR place >= {first_place})"
    if not engine.value(f"SELECT count(*) {loaded} AND time < {EARLY}"):
        return
    kinds = no_unit(unit)
    counts = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in kinds.values())
    real = f"count(*) FILTER (WHERE time >= {REAL})"
    n, n_real, *n_of_kinds = engine.rows(f"SELECT count(*), {real}, {counts} FROM parsed WHERE defect IS NULL")[0]
    for (reason, condition), n_such in zip(kinds.items(), n_of_kinds, strict=True):
        eight_digits = "19000101" in condition
        if n_such and (eight_digits or n_such >= NEARLY_ALL * n or n_real >= MOST * n):
            such = f"defect IS NULL AND {condition}"
            engine.execute(
                f"DELETE FROM raw_interactions WHERE domain = {domain} AND place IN (SELECT place FROM parsed WHERE "
                f"{such})"
            )
            rejects.bad_lines(reason, n_such, str(examples.path), examples.of(engine, such))


def _refuse_cut_times(examples: Examples, domain: int, engine: Engine, rejects: Rejects, first_place: int) -> None:
    """Take times such as 1.51E+09, what a spreadsheet leaves of a long number, out of `raw_interactions` again where
    most are such."""
    loaded = f"FROM raw_interactions WHERE domain = {domain} AND (place IS NULL OR place >= {first_place})"
    n, n_round = engine.rows(f"SELECT count(*), count(*) FILTER (WHERE time >= {EARLY} AND time % 10000 = 0) {loaded}")[
        0
    ]
    if n_round <= MOST * n:
        return
    such = f"defect IS NULL AND regexp_full_match(time_text, {quoted(CUT_NUMBER)})"
    n_such = engine.value(f"SELECT count(*) FROM parsed WHERE {such}")
    if n_such > MOST * n:
        engine.execute(
            f"DELETE FROM raw_interactions WHERE domain = {domain} AND place IN (SELECT place FROM parsed WHERE {such})"
        )
        rejects.bad_lines("timestamp without its last digits", n_such, str(examples.path), examples.of(engine, such))
