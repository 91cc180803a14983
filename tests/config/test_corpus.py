from pathlib import Path

import pytest

from cprec_jax.errors import UserError
from data_prep.source_files import source_path
from tests.run_jobs import corpus_spec

SOURCE = {"role": "pretrain", "interactions": "a.tsv", "items": "b.tsv"}


def spec_of(**section):
    return corpus_spec({"corpus": {"sources": {"books": SOURCE}, **section}})


def test_sources_as_list_and_as_mapping_are_the_same():
    assert spec_of() == corpus_spec({"corpus": {"sources": [{"name": "books", **SOURCE}]}})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"k_cor": 5}, "config.corpus.k_cor: unknown key; did you mean 'k_core'"),
        ({"sources": {}}, "sources is empty"),
        ({"sources": [{"name": "a", **SOURCE}, {"name": "a", **SOURCE}]}, "'a' is used twice"),
        ({"sources": {"a/b": SOURCE}}, "becomes a file name"),
        ({"sources": {"a": {**SOURCE, "role": "train"}}}, "'train' is not one of"),
        ({"sources": {"a": {**SOURCE, "order": "position", "split": "time"}}}, "cannot be split by time"),
        ({"quantiles": (0.9, 0.8)}, "must be two rising numbers"),
        ({"times": {"amzon": {"t1": 1, "t2": 2}}}, "platform 'amzon'"),
        ({"times": {"default": {"t1": "2014-04-04", "t2": "2014-01-05"}}}, "must be before"),
        ({"times": {"default": {"t1": "5 Jan", "t2": 9}}}, "ISO date"),
        ({"min_history": 0}, "must lie in 1..2147483647"),
        ({"min_history": 3 * 10**9}, "must lie in 1..2147483647"),
        ({"seed": 2**70}, "seed 1180591620717411303424 must lie in"),
        ({"k_core": 3 * 10**9}, "k_core 3000000000 must lie in"),
        ({"k_core": -1}, "k_core -1 must lie in"),
        ({"k_core": {"downstream": -1}}, "config.corpus.k_core: downstream -1 must lie in"),
        ({"sources": {"a": {**SOURCE, "k_core": 3 * 10**9}}}, "k_core 3000000000 must lie in"),
        ({"max_test_users": 2**70}, "max_test_users 1180591620717411303424 must lie in"),
        ({"max_test_users": -1}, "max_test_users -1 must lie in"),
        ({"max_valid_users": -1}, "max_valid_users -1 must lie in"),
        ({"max_bad_lines": -1}, "max_bad_lines -1 must lie in"),
        ({"threads": -1}, "threads -1 must lie in"),
        ({"threads": 0}, "threads 0 must lie in"),
        ({"times": {"default": {"t1": 1, "t2": 2**70}}}, "t2 = 1180591620717411303424 is no time"),
        ({"sources": {"a" * 300: SOURCE}}, "at most 100 bytes"),
        (
            {"sources": {"a": {**SOURCE, "platform": "x\ud83d"}}},
            "sources.a.platform: 'x\\ud83d' holds half a surrogate pair",
        ),
        ({"titles": {"max_length": 2**40}}, "max_length 1099511627776 must lie in"),
        ({"candidates": {"protocols": ["u20", "p20", "u20"]}}, "'u20' is listed twice"),
        ({"candidates": {"protocols": ["u99999999999"]}}, "at most 2147483647 candidates"),
        ({"candidates": {"protocols": ["x20"]}}, "write u20"),
        ({"max_lost_share": 1.5}, "max_lost_share 1.5 must lie in 0..1"),
        (
            {"sources": {"a": {**SOURCE, "adapter": "amazon2023", "columns": {"item": "asin"}}}},
            "columns.item: source 'a' has adapter 'amazon2023'",
        ),
        (
            {"sources": {"a": {**SOURCE, "adapter": "amazon2023", "time_unit": "s"}}},
            "time_unit: source 'a' has adapter 'amazon2023'",
        ),
        (
            {"sources": {"a": {**SOURCE, "adapter": "amazon2014", "format": "csv"}}},
            "format: source 'a' has adapter 'amazon2014'",
        ),
        (
            {"sources": {"a": {**SOURCE, "adapter": "amazon2018", "order": "position"}}},
            "order: source 'a' has adapter 'amazon2018'",
        ),
        (
            {"sources": {"a": {**SOURCE, "adapter": "movielens", "files": {"items": {"quote": '"'}}}}},
            "files.items.quote: source 'a' has",
        ),
        (
            {"sources": {"a": {**SOURCE, "adapter": "ninerec", "columns": {"title": "2"}}}},
            "columns.title: source 'a' has adapter 'ninerec'",
        ),
        ({"sources": {"a": {**SOURCE, "adapter": "tfds", "header": False}}}, "header: source 'a' has adapter 'tfds'"),
        ({"sources": {"a": {**SOURCE, "adapter": "synthetic"}}}, "interactions: source 'a' has adapter 'synthetic'"),
        (
            {"sources": {"a": {**SOURCE, "language": "en"}}},
            "language: source 'a' has adapter 'table', which does not read this key",
        ),
        ({"sources": {"a": {**SOURCE, "tfds_split": "train"}}}, "tfds_split: source 'a' has adapter 'table'"),
        (
            {"sources": {"a": {**SOURCE, "files": {"items": {"columns": {"user": "x"}}}}}},
            "files.items.columns.user: not read of this file",
        ),
        (
            {"sources": {"a": {**SOURCE, "order": "position", "time_unit": "ms"}}},
            "time_unit: source 'a' has order 'position'",
        ),
        ({"sources": {"a": {**SOURCE, "format": "parquet", "quote": "none"}}}, "quote: a Parquet file has none"),
        ({"sources": {"a": {**SOURCE, "delimiter": "\n"}}}, "delimiter '\\n': one to four bytes are needed"),
        ({"sources": {"a": {**SOURCE, "quote": "yes"}}}, "quote 'yes': write 'auto', 'none' or one character"),
        ({"sources": {"a": {**SOURCE, "encoding": "utf-9"}}}, "encoding 'utf-9': not known"),
        ({"sources": {"a": {**SOURCE, "interactions": ["a.tsv", 3]}}}, "sources.a.interactions"),
        ({"synthetic": {"stay": 1.5}}, "is a probability"),
        ({"synthetic": {"users": 10**20}}, "users 100000000000000000000 must lie in"),
        ({"synthetic": {"interactions": float("nan")}}, "interactions nan must lie in"),
        ({"synthetic": {"start": 10**20}}, "start 100000000000000000000 must lie in"),
    ],
)
def test_mistakes_give_one_line(section, message):
    with pytest.raises(UserError, match=r"config\.corpus") as caught:
        spec_of(**section)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dates_are_utc_and_integers_are_seconds():
    times = spec_of(times={"default": {"t1": "2014-01-05", "t2": 1396569600}}).times["default"]
    assert times.seconds == (1388880000, 1396569600)


def test_k_core_by_role_and_by_source():
    both = {"books": SOURCE, "films": {**SOURCE, "role": "downstream"}, "songs": {**SOURCE, "k_core": 2}}
    spec = spec_of(sources=both, k_core={"pretrain": 7, "downstream": 0})
    assert [spec.k_core_of(source) for source in spec.sources] == [7, 0, 2]
    assert spec_of(k_core=3).k_core_of(spec.sources[0]) == 3


def test_split_auto_follows_the_order_and_a_source_may_differ():
    spec = spec_of(sources={"books": SOURCE, "films": {**SOURCE, "split": "leave_one_out"}})
    assert spec.split_of(spec.sources[0], "timestamp") == "time"
    assert spec.split_of(spec.sources[0], "position") == "leave_one_out"
    assert spec.split_of(spec.sources[1], "timestamp") == "leave_one_out"
    strict = spec_of(split="time")
    with pytest.raises(UserError, match="only positions"):
        strict.split_of(strict.sources[0], "position")


def test_a_file_has_its_own_settings_then_those_of_the_source_then_the_defaults():
    columns = {"user": "userId", "item": "movieId"}
    files = {
        "items": {"columns": {"item": "id"}, "delimiter": "\\t", "encoding": "cp1252"},
        "interactions": {"header": False},
    }
    source = spec_of(sources={"a": {**SOURCE, "columns": columns, "delimiter": ";", "files": files}}).sources[0]
    items, interactions = source.file("items"), source.file("interactions")
    assert items.columns.named() == {"item": "id", "title": "title"} and items.header is True
    assert (items.delimiter, items.encoding, items.quote, items.format) == ("\t", "cp1252", "auto", "auto")
    assert interactions.columns.named() == {"user": "userId", "item": "movieId", "time": "3"}
    assert (interactions.delimiter, interactions.encoding, interactions.header) == (";", "auto", False)


def test_paths_are_checked(tmp_path: Path):
    spec = spec_of(sources={"books": {"role": "pretrain", "items": str(tmp_path / "no.tsv")}})
    with pytest.raises(UserError, match=r"config.corpus.sources.books.interactions: missing"):
        source_path(".", spec.sources[0], "interactions")
    with pytest.raises(UserError, match=r"no.tsv is not a file"):
        source_path(".", spec.sources[0], "items")
    with pytest.raises(
        UserError, match=r"config.corpus.sources.books.items: no such home directory in .* or root '~nosuchuser/x'"
    ):
        source_path("~nosuchuser/x", spec.sources[0], "items")
