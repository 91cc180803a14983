"""MovieLens of GroupLens (https://grouplens.org/datasets/movielens) as published; the name's ending tells which
release.

100k: `u.data` (tabs) and `u.item` (24 fields between pipes, Latin-1).  1M and 10M: `ratings.dat` and `movies.dat`
(fields between `::`; Latin-1 in 1M, UTF-8 in 10M).  20M, 25M, 32M and latest: `ratings.csv` and `movies.csv`.  Any of
them may be gzipped.
"""

import dataclasses
import zlib
from pathlib import Path

from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.source import ColumnsSpec, FileSpec, Order, SourceSpec
from cprec_jax.errors import UserError, one_line, shown
from data_prep.adapters.source_file import SourceFile
from data_prep.adapters.table import TableExamples, load_interactions, load_items
from data_prep.adapters.table_file import Layout, TableFile
from data_prep.engine import Engine
from data_prep.rejects import Rejects
from data_prep.source_files import source_path

USER, ITEM, TIME, TITLE = "userId", "movieId", "timestamp", "title"
_RATING = (USER, ITEM, "rating", TIME)
_GENRES = tuple(f"genre {n}" for n in range(19))
INTERACTIONS = {
    "data": Layout(columns=_RATING, delimiter="\t"),
    "dat": Layout(columns=_RATING, delimiter="::"),
    "csv": None,
}
ITEMS = {
    "item": Layout(columns=(ITEM, TITLE, "release date", "video release date", "url", *_GENRES), delimiter="|"),
    "dat": Layout(columns=(ITEM, TITLE, "genres"), delimiter="::"),
    "csv": None,
}
_CHUNK = 1 << 20


class MovieLensAdapter:
    def __init__(self, spec: CorpusSpec):
        self.spec = spec

    def files(self, source: SourceSpec) -> dict[str, Path]:
        return {
            "interactions": source_path(self.spec.root, source, "interactions"),
            "items": source_path(self.spec.root, source, "items"),
        }

    def load(self, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
        files, where = self.files(source), f"config.corpus.sources.{source.name}"
        layout = _layout(files["items"], ITEMS)
        if layout is not None:
            layout = dataclasses.replace(layout, encoding=_encoding(files["items"]))
        titles = FileSpec(columns=ColumnsSpec(item=ITEM, title=TITLE), format="csv", delimiter=",")
        items = TableFile(files["items"], "items", where, titles, layout, fixed=True)
        items.stage({"item_id": ITEM, "title": TITLE}, engine, rejects)
        load_items(items, domain, ITEM, engine, rejects)
        rated = FileSpec(columns=ColumnsSpec(user=USER, item=ITEM, time=TIME), format="csv", delimiter=",")
        layout = _layout(files["interactions"], INTERACTIONS)
        ratings = TableFile(files["interactions"], "interactions", where, rated, layout, fixed=True)
        names = {"user_id": USER, "item_id": ITEM, "time_text": TIME}
        ratings.stage(names, engine, rejects)
        load_interactions(TableExamples(ratings, names), domain, "timestamp", "s", engine, rejects)
        engine.execute("DROP TABLE staged")
        return "timestamp"


def _layout(path: Path, layouts: dict[str, Layout | None]) -> Layout | None:
    ending = path.name.removesuffix(".gz").removesuffix(".zip").rpartition(".")[2].lower()
    if ending not in layouts:
        raise UserError(
            f"{path}: MovieLens files end in {', '.join('.' + known for known in layouts)}, with or without .gz"
        )
    return layouts[ending]


def _encoding(path: Path) -> str:
    """UTF-8 (or what the file says it is) if the whole file is, else Latin-1, in which any byte is a character."""
    file = SourceFile(path, "")
    if file.encoding != "utf-8":
        return file.encoding
    try:
        with file.open() as stream:
            for line in iter(lambda: stream.readline(_CHUNK), b""):
                line.decode()
    except UnicodeDecodeError:
        return "latin-1"
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{shown(path)}: damaged or not a MovieLens file ({one_line(error)})") from error
    return "utf-8"
