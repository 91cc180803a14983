"""NineRec (https://github.com/westlake-repl/NineRec) as published: CSV without a header line.

`X_pair.csv` holds user, item and time, or item, user and time: the README says the one, the authors' `get_behaviour.py`
reads the other. So the column whose values are ids of `X_item.csv` is the item; `columns = {"user": "2", "item": "1"}`
says it by hand. QB and TN have no
times: the order of the lines counts, as does the order of the items in `QB_behaviour.tsv` (user, tab, items with blanks
between). `X_item.csv` holds item, Chinese title, English title; `language` chooses ("en" if it is not set).
"""

import csv
import itertools
import zlib
from collections import Counter
from pathlib import Path

from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.source import COLUMN_NAMES, FileSpec, Order, SourceSpec
from cprec_jax.errors import UserError, one_line, shown
from data_prep.adapters.table import TableExamples, load_interactions, load_items
from data_prep.adapters.table_file import Layout, TableFile
from data_prep.engine import Engine, identifier
from data_prep.rejects import Rejects
from data_prep.source_files import source_path

LANGUAGES = ("zh", "en")  # in the order of their columns, after the item's
_PROBED = 100
_HEADER_WORDS = {"user_id", "item_id", "video_id", "user", "item", "timestamp"}
_CLEAR = 0.9  # two columns of whose values nearly as many are item ids: both may be the items


class NineRecAdapter:
    def __init__(self, spec: CorpusSpec):
        self.spec = spec

    def files(self, source: SourceSpec) -> dict[str, Path]:
        return {
            "interactions": source_path(self.spec.root, source, "interactions"),
            "items": source_path(self.spec.root, source, "items"),
        }

    def load(self, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
        files = self.files(source)
        _load_titles(files["items"], source, domain, engine, rejects)
        if files["interactions"].name.removesuffix(".gz").endswith("_behaviour.tsv"):
            order = _load_sequences(files["interactions"], source, domain, engine, rejects)
        else:
            order = _load_pairs(files["interactions"], source, domain, engine, rejects)
        engine.execute("DROP TABLE staged")
        return order


def _open(path: Path, source: SourceSpec, which: str) -> TableFile:
    """The file with columns "1", "2", ...: as many as most of its first lines have. If it has a header line after all,
    with its names."""
    where = f"config.corpus.sources.{source.name}"
    probe = TableFile(path, which, where, FileSpec(), Layout(columns=(), delimiter=",", quote='"'))
    try:
        first = [fields for _, fields in itertools.islice(probe.records(), _PROBED) if fields]
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise UserError(f"{path}: damaged or not a CSV file ({one_line(error)})") from error
    if not first:
        raise UserError(f"{path}: the file is empty; expected one record a line")
    if any(field.strip().lower() in _HEADER_WORDS for field in first[0]):
        return TableFile(path, which, where, FileSpec(format="csv", delimiter=","), fixed=True)
    n_columns = Counter(map(len, first)).most_common(1)[0][0]
    return TableFile(
        path,
        which,
        where,
        FileSpec(),
        Layout(columns=tuple(str(n + 1) for n in range(n_columns)), delimiter=",", quote='"'),
    )


def _load_titles(path: Path, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> None:
    file = _open(path, source, "items")
    column = 1 + LANGUAGES.index(source.language or "en")
    if len(file.columns) <= column:
        hint = "set language = 'zh'" if len(file.columns) == 2 else "is it the file of items?"
        raise UserError(
            f"{path}: lines of {len(file.columns)} fields; expected item, Chinese title, English title; {hint}"
        )
    file.stage({"item_id": file.columns[0], "title": file.columns[column]}, engine, rejects)
    load_items(file, domain, file.columns[0], engine, rejects)


def _load_pairs(path: Path, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
    file = _open(path, source, "interactions")
    if len(file.columns) < 2:
        raise UserError(f"{path}: lines of one field; expected user, item and, but for QB and TN, time")
    order: Order = "position" if len(file.columns) == 2 or source.order == "position" else "timestamp"
    if order == "position":
        _refuse_clock(source, path)
    wanted = {f"field{n}": name for n, name in enumerate(file.columns[:3])}
    file.stage(wanted, engine, rejects)
    user, item = _user_and_item(file, source, domain, engine)
    names = {"user_id": file.columns[user], "item_id": file.columns[item]}
    time = "CAST(rowid AS VARCHAR)"
    if order == "timestamp":
        names["time_text"], time = file.columns[2], "field2"
    rows = f"SELECT rowid AS place, field{user} AS user_id, field{item} AS item_id, {time} AS time_text FROM staged"
    load_interactions(TableExamples(file, names), domain, order, source.time_unit, engine, rejects, rows)
    return order


def _user_and_item(file: TableFile, source: SourceSpec, domain: int, engine: Engine) -> tuple[int, int]:
    """Which of the first two columns is the user and which the item, counted from 0."""
    pair = file.columns[:2]
    given = {**COLUMN_NAMES, **source.columns.named()}
    if {given["user"], given["item"]} == set(pair):
        return pair.index(given["user"]), pair.index(given["item"])
    if source.columns.named():
        raise UserError(
            f"{file.where}.columns: user and item are the first two columns, {pair[0]!r} and {pair[1]!r}, in either "
            "order"
        )
    known = f"SELECT item_id FROM raw_items WHERE domain = {domain}"
    counts = ", ".join(f"count(*) FILTER (WHERE {identifier(f'field{n}')} IN ({known}))" for n in range(2))
    counts_of = engine.rows(f"SELECT {counts} FROM staged")[0]
    if not any(counts_of):
        raise UserError(
            f"{file.path}: no id of the file of items occurs in its first two columns; do both files belong together?"
        )
    if min(counts_of) > _CLEAR * max(counts_of):
        raise UserError(
            f"{file.path}: both columns hold ids of the file of items, so it cannot tell users from items; "
            f"set {file.where}.columns = {{'user': {pair[0]!r}, 'item': {pair[1]!r}}} or the other way round"
        )
    item = int(counts_of[1] > counts_of[0])
    return 1 - item, item


def _refuse_clock(source: SourceSpec, path: Path) -> None:
    """Settings of times where the order of the file counts."""
    where = f"config.corpus.sources.{source.name}"
    if source.order == "timestamp":
        raise UserError(f"{where}.order: {shown(path)} has no times; leave the key out")
    if source.time_unit is not None:
        raise UserError(f"{where}.time_unit: the order of {shown(path)} has no unit; leave the key out")


def _load_sequences(path: Path, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
    _refuse_clock(source, path)
    where = f"config.corpus.sources.{source.name}"
    for key in ("user", "item"):
        if getattr(source.columns, key) is not None:
            raise UserError(
                f"{where}.columns.{key}: {shown(path)} has a user and all its items on a line; leave the key out"
            )
    file = TableFile(path, "interactions", where, FileSpec(), Layout(columns=("user", "items"), delimiter="\t"))
    file.stage({"user_id": "user", "items": "items"}, engine, rejects)
    # A user of two lines goes on where the first one ended.
    rows = (
        "SELECT place, user_id, item_id, CAST(row_number() OVER (ORDER BY place, step) AS VARCHAR) AS time_text FROM ("
        "SELECT rowid AS place, user_id, unnest(split) AS item_id, unnest(range(len(split))) AS step FROM ("
        "SELECT rowid, user_id, string_split(coalesce(items, ''), ' ') AS split FROM staged) AS lines) AS steps"
    )
    load_interactions(
        TableExamples(file, {"user_id": "user"}), domain, "position", source.time_unit, engine, rejects, rows
    )
    return "position"
