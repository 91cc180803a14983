"""The configs of published corpora: their sections hold, and they find the files under the names they were published
with."""

import json
from pathlib import Path

import pytest

from cprec_jax.cli import load_config
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from data_prep.adapters import make_adapters
from tests.data_prep.adapters.loading import write
from tests.run_jobs import corpus_spec, prepare

SEVEN = str(Path(__file__).parents[2] / "configs" / "corpora" / "amazon2023_seven.py")
MOVIELENS = str(Path(SEVEN).with_name("movielens_1m.py"))
CATEGORIES = [
    "Automotive",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Electronics",
    "Grocery_and_Gourmet_Food",
    "Home_and_Kitchen",
    "Movies_and_TV",
    "Industrial_and_Scientific",
    "Musical_Instruments",
    "Office_Products",
]


def test_seven_domains_of_amazon_2023():
    spec = corpus_spec(load_config(SEVEN, {}))
    assert [source.name for source in spec.sources if source.role == "pretrain"] == CATEGORIES[:7]
    downstream = {source.name: source for source in spec.sources if source.role == "downstream"}
    assert list(downstream) == ["Scientific", "Instruments", "Office", "Bili_Food", "Bili_Movie"]
    assert {source.platform for source in spec.sources[:10]} == {"amazon"}
    assert {source.platform for source in spec.sources[10:]} == {"bilibili"}
    assert set(make_adapters(spec)) == {"amazon2023", "ninerec"}
    names = {
        source.urls[which].url.rpartition("/")[2] for source in spec.sources[:10] for which in ("interactions", "items")
    }
    assert names == {f"{prefix}{category}.jsonl.gz" for category in CATEGORIES for prefix in ("", "meta_")}
    with pytest.raises(UserError, match="choose jsonl or csv"):
        load_config(SEVEN + ":parquet", {})


@pytest.mark.parametrize("reviews", ["jsonl", "csv"])
def test_seven_domains_from_files_as_published(tmp_path: Path, reviews):
    raw = tmp_path / "raw"
    for category in CATEGORIES:
        rows = [(f"AE{n % 6}", f"B{(n * 5 + n // 6) % 7}", 1_600_000_000_000 + n * 86_400_000) for n in range(60)]
        lines = [
            json.dumps({"user_id": user, "parent_asin": item, "asin": "x", "timestamp": time})
            for user, item, time in rows
        ]
        if reviews == "csv":
            lines = [
                "user_id,parent_asin,rating,timestamp",
                *(f"{user},{item},5.0,{time}" for user, item, time in rows),
            ]
        write(raw / f"{category}.{reviews}.gz", lines)
        write(
            raw / f"meta_{category}.jsonl.gz",
            [json.dumps({"parent_asin": f"B{n}", "title": f"{category} {n}"}) for n in range(7)],
        )
    for name in ("Bili_Food", "Bili_Movie"):
        write(
            raw / name / f"{name}_pair.csv", [f"{n % 7},{100 + n % 6},{1_600_000_000 + n * 86_400}" for n in range(60)]
        )
        write(raw / name / f"{name}_item.csv", [f"{n},标题{n},{name} {n}" for n in range(7)])
    overrides = {"corpus.root": str(raw), "corpus.k_core": "0", "corpus.candidates": "{'protocols': ('u3',)}"}
    prepare(load_config(f"{SEVEN}:{reviews}", overrides), tmp_path)
    corpus = Corpus.open(tmp_path / "corpus")
    assert len(corpus.items) == 12 * 7
    assert corpus.manifest["rejected"] == {}
    assert set(corpus.manifest["times"]) == {"amazon", "bilibili"}
    assert len(corpus.sequences("mixed")) == 6
    assert {name: len(corpus.targets("test", name)) for name in ("Scientific", "Bili_Movie")} == {
        "Scientific": 6,
        "Bili_Movie": 6,
    }
    assert corpus.items.title[-1] == "Bili_Movie 6"


def test_movielens_1m_from_its_archive(tmp_path: Path):
    """Both files are members of one archive; once they are there, nothing is fetched."""
    (source,) = corpus_spec(load_config(MOVIELENS, {})).sources
    assert {remote.url for remote in source.urls.values()} == {
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
    }
    assert [remote.member for remote in source.urls.values()] == ["ml-1m/ratings.dat", "ml-1m/movies.dat"]
    write(tmp_path / "ratings.dat", [f"{n % 7}::{n % 6}::5::{978_300_000 + n}" for n in range(60)])
    write(tmp_path / "movies.dat", [f"{n}::Film {n} (1999)::Drama" for n in range(6)])
    overrides = {"corpus.root": str(tmp_path), "corpus.download": "true", "corpus.candidates": "{'protocols': ('u3',)}"}
    prepare(load_config(MOVIELENS, overrides), tmp_path)
    assert len(Corpus.open(tmp_path / "corpus").targets("test", "ml1m")) == 7
