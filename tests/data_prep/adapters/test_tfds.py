"""Interactions of TFDS datasets as others build them, written here without TensorFlow."""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from data_prep.adapters.tfds import NOT_UTF8
from tests.data_prep.adapters.loading import Loaded, truncate
from tests.data_prep.tables import corpus_of

TEXT = tfds.features.Text()
RATINGS = {  # the layout of movielens/*-ratings, as far as it concerns us
    "movie_id": TEXT,
    "movie_title": TEXT,
    "movie_genres": tfds.features.Sequence(np.int64),
    "user_id": TEXT,
    "user_rating": np.float32,
    "timestamp": np.int64,
}
COLUMNS = {"user": "user_id", "item": "movie_id", "title": "movie_title"}


def rating(user: object, movie: object, time: int, title: object = None) -> dict:
    title = f"Film {movie} é" if title is None else title
    return {
        "movie_id": movie,
        "movie_title": title,
        "movie_genres": [1, 2],
        "user_id": user,
        "user_rating": 4.0,
        "timestamp": time,
    }


def build(directory: Path, features: dict, shard: int = 100, **splits: Iterable[dict]) -> Path:
    directory.mkdir(parents=True)
    name, version = directory.parent.name, tfds.core.Version(directory.name)
    identity = tfds.core.DatasetIdentity(name=name, version=version, data_dir=str(directory), module_name="nowhere")
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=shard, file_format="array_record")
    writer.initialize_splits(list(splits))
    writer.add_examples(splits)
    writer.close_all()
    return directory


MADE = [(f"u{n % 7}", str(n % 5), 1000 + n) for n in range(250)]


def test_ratings_of_several_shards_and_the_newest_version(tmp_path: Path):
    build(tmp_path / "films" / "1.9.0", RATINGS, train=[rating("old", "1", 5)])
    build(tmp_path / "films" / "1.10.0", RATINGS, train=[rating(*row) for row in MADE], other=[rating("u9", "1", 7)])
    assert len(list((tmp_path / "films" / "1.10.0").glob("*train*"))) == 3
    loaded = Loaded("tfds", tmp_path / "films", None, columns=COLUMNS)
    assert (loaded.interactions, loaded.order, loaded.rejected) == (sorted(MADE), "timestamp", {})
    assert loaded.items == [(str(n), f"Film {n} é") for n in range(5)]
    assert loaded.left_over == []
    assert Loaded("tfds", tmp_path / "films", None, columns=COLUMNS, tfds_split="other").interactions == [
        ("u9", "1", 7)
    ]
    sliced = Loaded("tfds", tmp_path / "films" / "1.10.0", None, columns=COLUMNS, tfds_split="train[20%:60%]")
    assert sliced.interactions == sorted(MADE[50:150])
    titles = [{"movie_id": str(n), "movie_title": f"Film {n}"} for n in range(5)]
    build(tmp_path / "titles" / "1.0.0", {"movie_id": TEXT, "movie_title": TEXT}, train=titles[:4], rare=titles[4:])
    sliced = Loaded(
        "tfds", tmp_path / "films" / "1.10.0", tmp_path / "titles", columns=COLUMNS, tfds_split="train[20%:60%]"
    )
    assert sliced.interactions == sorted(MADE[50:150])
    assert sliced.items == [(str(n), f"Film {n}") for n in range(5)], "a slice of the interactions needs all titles"
    assert "tensorflow" not in sys.modules


def test_numbers_nested_features_milliseconds_and_titles_of_their_own(tmp_path: Path):
    features = {"who": np.int64, "what": {"id": np.int32, "when": np.float64}}
    build(
        tmp_path / "plays" / "1.0.0",
        features,
        train=[{"who": n % 3, "what": {"id": n, "when": n * 1000.0}} for n in range(6)],
    )
    build(
        tmp_path / "songs" / "1.0.0",
        {"id": np.int32, "title": TEXT},
        train=[{"id": n, "title": f"Song {n}"} for n in range(6)],
    )
    columns = {"user": "who", "item": "what/id", "time": "what/when"}
    with pytest.raises(UserError, match=r"no feature 'what/id'; .*columns.item"):
        Loaded("tfds", tmp_path / "plays", tmp_path / "songs", columns=columns, time_unit="ms")
    build(
        tmp_path / "titles" / "1.0.0",
        {"what": {"id": np.int32}, "title": TEXT},
        train=[{"what": {"id": 1}, "title": "Song"}],
    )
    loaded = Loaded("tfds", tmp_path / "plays", tmp_path / "titles", columns=columns, time_unit="ms")
    assert loaded.interactions == sorted((str(n % 3), str(n), n) for n in range(6))
    assert loaded.items == [("1", "Song")]


def test_bad_records_are_counted_and_shown_with_their_number(tmp_path: Path):
    records = [
        rating("u1", "1", 5),
        rating(b"\xff", "1", 5),
        rating("", "1", 5),
        rating("u1", "", 5),
        rating("u1", "2", -5),
        rating("u1", "2", 4_200_000_000),
        rating("u1", "3", 9, ""),
        rating("u1", "3", 9, "Film\x00 3"),
    ]
    loaded = Loaded("tfds", build(tmp_path / "films" / "1.0.0", RATINGS, train=records), None, columns=COLUMNS)
    assert loaded.interactions == [("u1", "1", 5), ("u1", "3", 9), ("u1", "3", 9)]
    assert loaded.rejected == {
        NOT_UTF8: 1,
        "missing user": 1,
        "missing item": 1,
        "negative timestamp": 1,
        "timestamp after the year 2100 (time_unit wrong?)": 1,
    }
    shown = {reason: samples[0].rpartition("1.0.0: ")[2] for reason, samples in loaded.samples.items()}
    assert shown[NOT_UTF8] == "record 2"
    assert shown["negative timestamp"] == "record 5: user u1, item 2, time -5"
    with pytest.raises(
        UserError,
        match=r"1.0.0: 2 bad lines, more than config.corpus.max_bad_lines = 1; missing item, first record 4: ",
    ):
        Loaded("tfds", tmp_path / "films", None, columns=COLUMNS, max_bad_lines=1)


def test_what_cannot_be_read(tmp_path: Path):
    films = build(tmp_path / "films" / "1.0.0", RATINGS, train=[rating(*row) for row in MADE])
    with pytest.raises(UserError, match=r"sources.shop.tfds_split: .* has no split 'tarin'; did you mean 'train'"):
        Loaded("tfds", films, None, columns=COLUMNS, tfds_split="tarin")
    with pytest.raises(
        UserError,
        match=r"no feature 'film_id'; did you mean 'movie_id'\? \(set config.corpus.sources.shop.columns.item",
    ):
        Loaded("tfds", films, None, columns={**COLUMNS, "item": "film_id"})
    with pytest.raises(UserError, match=r"feature 'movie_genres' holds many values a record; set .*columns.title"):
        Loaded("tfds", films, None, columns={**COLUMNS, "title": "movie_genres"})
    with pytest.raises(UserError, match=r"sources.shop.interactions: .*nothing holds no prepared TFDS dataset"):
        Loaded("tfds", tmp_path / "nothing", None, columns=COLUMNS)
    shard = sorted(films.glob("*train*"))[1]
    truncate(shard)
    with pytest.raises(UserError, match=rf"{shard.name}: (damaged or absent|0 records).*; build the dataset again"):
        Loaded("tfds", films, None, columns=COLUMNS)
    info = films / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"stored as tfrecord, which needs TensorFlow; build it with"):
        Loaded("tfds", films, None, columns=COLUMNS)
    info.write_text("{")
    with pytest.raises(UserError, match=r"no TFDS dataset that can be read"):
        Loaded("tfds", films, None, columns=COLUMNS)


def test_to_a_corpus(tmp_path: Path):
    films = build(tmp_path / "films" / "1.0.0", RATINGS, train=[rating(*row) for row in MADE])
    source = {
        "role": "downstream",
        "adapter": "tfds",
        "interactions": str(films.parent),
        "columns": COLUMNS,
        "split": "leave_one_out",
    }
    corpus = corpus_of(tmp_path, {"films": source}, k_core=0)
    assert len(corpus.targets("test", "films")) == 7
    files = corpus.manifest["sources"]["films"]["files"]
    assert {"interactions/dataset_info.json", "interactions/films-train.array_record-00002"} < set(files)
    assert all(len(entry["sha256"]) == 64 for entry in files.values())


VALUE = st.sampled_from(["1", "2", "", "😀", "a\x00b"]) | st.binary(max_size=3)
TIME = st.integers(-3, 5) | st.sampled_from([2**62, -(2**62), 4_102_444_801])


@settings(max_examples=8)
@given(records=st.lists(st.tuples(VALUE, VALUE, TIME, VALUE), max_size=8))
def test_any_records_are_read_or_counted(tmp_path: Path, records):
    directory = tmp_path / str(len(list(tmp_path.iterdir()))) / "1.0.0"
    build(directory, RATINGS, train=[rating("u1", "1", 5), *(rating(*record) for record in records)])
    loaded = Loaded("tfds", directory, None, columns=COLUMNS)
    assert len(loaded.interactions) + loaded.refused() == len(records) + 1
