"""MovieLens of GroupLens (https://grouplens.org/datasets/movielens) as published; the name's ending tells which release.

100k: `u.data` (tabs) and `u.item` (24 fields between pipes, Latin-1).  1M and 10M: `ratings.dat` and `movies.dat` (fields between `::`;
Latin-1 in 1M, UTF-8 in 10M).  20M, 25M, 32M and latest: `ratings.csv` and `movies.csv`.  Any of them may be gzipped.
"""

import dataclasses
import gzip
import zlib
from pathlib import Path

from cprec_jax.errors import UserError, one_line
from data_prep.adapters.table import Layout, TableFile, load_interactions, load_items
from data_prep.engine import Engine
from data_prep.rejects import Rejects
from data_prep.spec import CorpusSpec, Order, SourceSpec, source_path

USER, ITEM, TIME, TITLE = "userId", "movieId", "timestamp", "title"
_RATING = (USER, ITEM, "rating", TIME)
_GENRES = tuple(f"genre {n}" for n in range(19))
INTERACTIONS = {"data": Layout(columns=_RATING, delimiter="\t"), "dat": Layout(columns=_RATING, delimiter="::"), "csv": None}
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
        return {"interactions": source_path(self.spec.root, source, "interactions"), "items": source_path(self.spec.root, source, "items")}

    def load(self, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
        files = self.files(source)
        source = dataclasses.replace(source, format="csv")
        layout = _layout(files["items"], ITEMS)
        if layout is not None:
            layout = dataclasses.replace(layout, encoding=_encoding(files["items"]))
        items = TableFile(files["items"], source, "items", layout)
        items.stage({"item_id": ITEM, "title": TITLE}, engine, rejects)
        load_items(items, domain, ITEM, engine, rejects)
        ratings = TableFile(files["interactions"], source, "interactions", _layout(files["interactions"], INTERACTIONS))
        names = {"user_id": USER, "item_id": ITEM, "time_text": TIME}
        ratings.stage(names, engine, rejects)
        load_interactions(ratings.examples(names), domain, "timestamp", "s", engine, rejects)
        engine.execute("DROP TABLE staged")
        return "timestamp"


def _layout(path: Path, layouts: dict[str, Layout | None]) -> Layout | None:
    ending = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if ending not in layouts:
        raise UserError(f"{path}: MovieLens files end in {', '.join('.' + known for known in layouts)}, with or without .gz")
    return layouts[ending]


def _encoding(path: Path) -> str:
    """UTF-8 if the whole file is, else Latin-1, in which any byte is a character."""
    with open(path, "rb") as stream:
        gzipped = stream.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if gzipped else open(path, "rb") as stream:
            for line in iter(lambda: stream.readline(_CHUNK), b""):
                line.decode()
    except UnicodeDecodeError:
        return "latin-1"
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged or not a MovieLens file ({one_line(error)})") from error
    return "utf-8"
