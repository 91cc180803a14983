"""Amazon reviews of the McAuley lab as published: 2014, 2018 and 2023; one category is a file of reviews and a file of
metadata.

2014 (http://jmcauley.ucsd.edu/data/amazon): `reviews_X_5.json.gz` (or without `_5`) and `meta_X.json.gz`, JSON or
Python dicts a line. 2018 (https://nijianmo.github.io/amazon): `X_5.json.gz` or `X.json.gz`, and `meta_X.json.gz`, where
some titles hold code of the page. 2023 (https://amazon-reviews-2023.github.io): `X.jsonl.gz` or the CSV
`user_id,parent_asin,rating,timestamp`, and `meta_X.jsonl.gz`; time is in milliseconds, and the item is the
`parent_asin`, which all colours and sizes of a product share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.source import ColumnsSpec, FileSpec, Order, SourceSpec
from cprec_jax.errors import UserError
from data_prep.adapters.json_lines import JsonLines, Kind
from data_prep.adapters.table import TableExamples, load_interactions
from data_prep.adapters.table_file import TableFile
from data_prep.engine import Engine
from data_prep.rejects import SAMPLES, Rejects
from data_prep.source_files import source_path

# Script that was taken for the title: "var aPageStart = (new Date()).getTime(); ...". Whole words, for there are
# "BudgetTime" planners.
PAGE_CODE = r"\bgetTime\b|\baPageStart\b|<script\b"


@dataclass(frozen=True, kw_only=True)
class Release:
    """What one release calls its fields; several names of the time are tried in turn."""

    user: str
    item: str
    times: tuple[str, ...]
    time_unit: str


OLD = Release(user="reviewerID", item="asin", times=("unixReviewTime",), time_unit="s")
NEW = Release(user="user_id", item="parent_asin", times=("timestamp", "sort_timestamp"), time_unit="ms")
RELEASES = {"amazon2014": OLD, "amazon2018": OLD, "amazon2023": NEW}


class AmazonAdapter:
    def __init__(self, spec: CorpusSpec):
        self.spec = spec

    def files(self, source: SourceSpec) -> dict[str, Path]:
        return {
            "interactions": source_path(self.spec.root, source, "interactions"),
            "items": source_path(self.spec.root, source, "items"),
        }

    def load(self, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
        release, files = RELEASES[source.adapter], self.files(source)
        _load_metadata(files["items"], source.name, domain, release, engine, rejects)
        if any(suffix.lower() == ".csv" for suffix in files["interactions"].suffixes):
            _load_csv(files["interactions"], source, domain, release, engine, rejects)
        else:
            _load_reviews(files["interactions"], domain, release, engine, rejects)
        engine.execute("DROP TABLE staged")
        return "timestamp"


def _load_metadata(path: Path, source: str, domain: int, release: Release, engine: Engine, rejects: Rejects) -> None:
    file = JsonLines(path, "items", {"item_id": ("text", (release.item,)), "title": ("text", ("title",))})
    rows = file.stage(engine, rejects)
    engine.execute("DROP TABLE IF EXISTS parsed")
    engine.execute(f"CREATE TABLE parsed AS SELECT place, nullif(item_id, '') AS item_id, title FROM ({rows}) AS given")
    n = engine.value("SELECT count(*) FROM parsed WHERE item_id IS NULL")
    if n:
        rejects.bad_lines("item without id", n, str(path), file.of(engine, "item_id IS NULL"), "items")
    is_code = f"coalesce(regexp_matches(title, '{PAGE_CODE}'), false)"
    coded = f"FROM parsed WHERE item_id IS NOT NULL AND {is_code}"
    shown = [
        f"{source} {item}: {title}"
        for item, title in engine.rows(f"SELECT item_id, title {coded} ORDER BY ALL LIMIT {SAMPLES}")
    ]
    rejects.count("title that holds code of the page", engine.value(f"SELECT count(*) {coded}"), shown)
    # The item stays without a title, and so its interactions are counted as those of an item that has none.
    title = f"CASE WHEN {is_code} THEN NULL ELSE title END"
    engine.execute(f"INSERT INTO raw_items SELECT {domain}, item_id, {title} FROM parsed WHERE item_id IS NOT NULL")
    engine.execute("DROP TABLE parsed")


def _load_reviews(path: Path, domain: int, release: Release, engine: Engine, rejects: Rejects) -> None:
    fields: dict[str, tuple[Kind, Sequence[str]]] = {
        "user_id": ("text", (release.user,)),
        "item_id": ("text", (release.item,)),
        "time_text": ("time", release.times),
    }
    file = JsonLines(path, "interactions", fields)
    rows = file.stage(engine, rejects)
    load_interactions(file, domain, "timestamp", release.time_unit, engine, rejects, rows)


def _load_csv(path: Path, source: SourceSpec, domain: int, release: Release, engine: Engine, rejects: Rejects) -> None:
    if release is not NEW:
        raise UserError(
            f"{path}: {source.adapter} reads reviews as JSON lines (.json.gz); only amazon2023 has a CSV with a "
            "header line"
        )
    columns = ColumnsSpec(user=release.user, item=release.item, time=release.times[0])
    where = f"config.corpus.sources.{source.name}"
    file = TableFile(path, "interactions", where, FileSpec(columns=columns, format="csv", delimiter=","), fixed=True)
    names = {"user_id": release.user, "item_id": release.item, "time_text": release.times[0]}
    file.stage(names, engine, rejects)
    load_interactions(TableExamples(file, names), domain, "timestamp", release.time_unit, engine, rejects)
