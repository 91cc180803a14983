"""Every kind of bad input: an error that says what to mend, or a count with samples."""

import csv
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from data_prep.adapters.table import LATEST_SECONDS, TableAdapter
from data_prep.engine import Engine
from data_prep.rejects import Rejects
from tests.run_jobs import corpus_spec

ITEMS = "item_id\ttitle\na\tApple\nb\tPear\n"


class Loaded:
    def __init__(self, interactions: Path, items: Path, max_bad_lines: int = 100, **source):
        given = {"role": "pretrain", "interactions": str(interactions), "items": str(items), **source}
        spec = corpus_spec({"corpus": {"sources": {"shop": given}, "max_bad_lines": max_bad_lines}})
        rejects = Rejects(max_bad_lines)
        engine = Engine(interactions.parent / "scratch", threads=1)
        try:
            engine.script("tables")
            self.order = TableAdapter(spec).load(spec.sources[0], 0, engine, rejects)
            self.interactions = sorted(engine.rows("SELECT user_id, item_id, time FROM raw_interactions"))
            self.items = sorted(engine.rows("SELECT item_id, title FROM raw_items"), key=str)
        finally:
            engine.close()
        self.rejected = rejects.as_dict()

    @property
    def n_rejected(self) -> int:
        return sum(entry["n"] for entry in self.rejected.values())


def load(folder: Path, interactions: str | bytes, items: str | bytes = ITEMS, suffix: str = "tsv", **other) -> Loaded:
    for name, content in (("inter", interactions), ("item", items)):
        (folder / f"{name}.{suffix}").write_bytes(content.encode() if isinstance(content, str) else content)
    return Loaded(folder / f"inter.{suffix}", folder / f"item.{suffix}", **other)


GOOD = [("u1", "a", 5), ("u1", "b", 7)]
GOOD_TSV = "user_id\titem_id\ttimestamp\nu1\ta\t5\nu1\tb\t7\n"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_formats_agree(tmp_path: Path, suffix, packed):
    texts = [text if suffix == "tsv" else text.replace("\t", ",") for text in (GOOD_TSV, ITEMS)]
    pack = gzip.compress if packed else bytes
    loaded = load(tmp_path, *(pack(text.encode()) for text in texts), suffix=suffix + ".gz" * packed)
    assert (loaded.interactions, loaded.items, loaded.order) == (GOOD, [("a", "Apple"), ("b", "Pear")], "timestamp")
    assert loaded.rejected == {}


def test_parquet_with_numbers_dates_and_nulls(tmp_path: Path):
    pq.write_table(pa.table({"item_id": [1, 2, 3], "title": ["x", None, "z"]}), tmp_path / "item.parquet")
    times = pa.array([5_000_000, None, 7_000_000], pa.timestamp("us"))
    pq.write_table(
        pa.table({"user_id": [10, 11, 12], "item_id": [1, 2, 3], "timestamp": times}), tmp_path / "inter.parquet"
    )
    loaded = Loaded(tmp_path / "inter.parquet", tmp_path / "item.parquet")
    assert loaded.interactions == [("10", "1", 5), ("12", "3", 7)]
    assert loaded.items == [("1", "x"), ("2", None), ("3", "z")]
    assert loaded.rejected["unparsable timestamp"]["n"] == 1


def parquet(folder: Path, **columns: pa.Array | list) -> Loaded:
    given = {"user_id": ["u", "v"], "item_id": ["a", "a"], "timestamp": [5, 6]} | columns
    pq.write_table(pa.table(given), folder / "inter.parquet")
    pq.write_table(pa.table({"item_id": ["a"], "title": ["Apple"]}), folder / "item.parquet")
    return Loaded(folder / "inter.parquet", folder / "item.parquet")


def test_parquet_columns_that_would_be_read_as_something_else(tmp_path: Path):
    for columns, message in (
        ({"user_id": [["u"], ["v"]]}, r"column 'user_id' holds list<.*>; expected text or numbers"),
        ({"item_id": [b"\xff", b"a"]}, r"column 'item_id' holds binary; expected text or numbers"),
        ({"user_id": [1.0, None]}, r"column 'user_id' holds ids as double, so that 1 becomes 1.0"),
        (
            {"USER_ID": ["x", "y"]},
            r"column 'user_id' occurs twice \(as 'user_id', 'USER_ID'; case does not count\); rename one",
        ),
    ):
        with pytest.raises(UserError, match=rf"inter.parquet: {message}"):
            parquet(tmp_path, **columns)
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"])] * 3, ["item_id", "title", "title"]), tmp_path / "item.parquet"
    )
    with pytest.raises(UserError, match=r"item.parquet: column 'title' occurs twice"):
        Loaded(tmp_path / "inter.parquet", tmp_path / "item.parquet")


def test_parquet_kinds_that_are_read_and_rows_that_are_refused(tmp_path: Path):
    loaded = parquet(tmp_path, user_id=pa.array(["u", "v"]).dictionary_encode(), timestamp=[5.0, None])
    assert loaded.interactions == [("u", "a", 5)]
    assert (
        loaded.rejected["unparsable timestamp"]["samples"][0].split("parquet: ")[1].startswith("row 2: {'user_id': 'v'")
    )


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        (",user_id,item_id,timestamp", "0,", ""),
        ("user_id,item_id,timestamp,", "", ","),
        ("USER_ID,user_id,item_id,timestamp,,", "x,", ",,"),
    ],
)
def test_headers_with_unnamed_columns_or_names_alike_but_for_case(tmp_path: Path, header, start, end):
    for delimiter, suffix in ((",", "csv"), ("\t", "tsv")):
        text = f"{header}\n{start}u1,a,5{end}\n{start}u1,b,7{end}\n".replace(",", delimiter)
        assert load(tmp_path, text, ITEMS.replace("\t", delimiter), suffix=suffix).interactions == GOOD


def test_own_column_names_windows_lines_and_byte_order_mark(tmp_path: Path):
    interactions = "\ufeffwhen\twho\twhat\textra\r\n5\tu1\ta\t\r\n7\tu1\tb\tx\r\n"
    items = "name\twhat\r\nApple\ta\r\nPear\tb\r\n"
    columns = {"user": "who", "item": "what", "time": "when", "title": "name"}
    loaded = load(tmp_path, interactions, items, columns=columns)
    assert (loaded.interactions, loaded.items) == (GOOD, [("a", "Apple"), ("b", "Pear")])


def test_position_and_milliseconds(tmp_path: Path):
    loaded = load(tmp_path, GOOD_TSV.replace("timestamp", "position"))
    assert (loaded.order, loaded.interactions) == ("position", GOOD)
    loaded = load(tmp_path, GOOD_TSV.replace("\t5", "\t5000").replace("\t7", "\t7999"), time_unit="ms")
    assert loaded.interactions == GOOD


@pytest.mark.parametrize(
    ("interactions", "items", "message"),
    [
        ("", ITEMS, r"inter.tsv: the file is empty"),
        ("user_id\titem_id\ttimestamp\n", ITEMS, r"inter.tsv: no readable rows"),
        (GOOD_TSV, "", r"item.tsv: the file is empty"),
        (
            GOOD_TSV.replace("user_id", "userid"),
            ITEMS,
            r"no column 'user_id'; did you mean 'userid'\? \(set config.corpus.sources.shop.columns.user",
        ),
        (GOOD_TSV.replace("timestamp", "time"), ITEMS, r"no column 'timestamp'; did you mean 'time'"),
        (GOOD_TSV, ITEMS.replace("title", "name"), r"item.tsv: no column 'title'"),
        (GOOD_TSV.replace("timestamp", "user_id"), ITEMS, r"column 'user_id' occurs twice"),
    ],
)
def test_files_that_make_no_corpus(tmp_path: Path, interactions, items, message):
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, interactions, items)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path):
    (tmp_path / "item.tsv").write_text(ITEMS)
    with pytest.raises(UserError, match=r"config.corpus.sources.shop.interactions: .*inter.tsv is not a file"):
        Loaded(tmp_path / "inter.tsv", tmp_path / "item.tsv")


def test_unknown_suffix_asks_for_the_format(tmp_path: Path):
    with pytest.raises(UserError, match=r"set config.corpus.sources.shop.format"):
        load(tmp_path, GOOD_TSV, suffix="dat")
    assert load(tmp_path, GOOD_TSV, suffix="dat", format="tsv").interactions == GOOD


@pytest.mark.parametrize("suffix", ["tsv.gz", "parquet"])
def test_truncated_files(tmp_path: Path, suffix):
    rows = "".join(f"user-{i * 7919}\ta\t{i * 31 % 1009}\n" for i in range(20_000))
    content = gzip.compress(("user_id\titem_id\ttimestamp\n" + rows).encode())
    if suffix == "parquet":
        pq.write_table(
            pa.table({"user_id": ["u"] * 999, "item_id": ["a"] * 999, "timestamp": range(999)}),
            tmp_path / "whole.parquet",
        )
        content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "item.tsv").write_text(ITEMS)
    path = tmp_path / f"inter.{suffix}"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"inter.{suffix}: (damaged|cannot be read)"):
        Loaded(path, tmp_path / "item.tsv")


def test_bad_lines_are_counted_and_shown_with_their_lines(tmp_path: Path):
    bad = (
        b"u2\tb\tx\n"  # line 4
        b"u3\tb\n"
        b"u4\tb\t7\textra\n"
        b"u5\tb\t-3\n"
        b"u\xff6\tb\t3\n"
        b"\tb\t3\n"
        b"u8\t\t3\n"
        b"u9\tb\t\n"
        b"u10\tb\t1388880000000\n"
    )
    loaded = load(tmp_path, GOOD_TSV.encode() + bad + b"u11\tb\t9.0\n")
    assert loaded.interactions == [*GOOD[:1], ("u1", "b", 7), ("u11", "b", 9)]
    counts = {
        reason: (entry["n"], [sample.split(": ", 1)[1].split(":")[0] for sample in entry["samples"]])
        for reason, entry in loaded.rejected.items()
    }
    assert counts == {
        "malformed line: missing columns": (1, ["line 5"]),
        "malformed line: too many columns": (1, ["line 6"]),
        "malformed line: invalid encoding": (1, ["line 8"]),
        "missing user": (1, ["line 9"]),
        "missing item": (1, ["line 10"]),
        "unparsable timestamp": (2, ["line 4", "line 11"]),
        "negative timestamp": (1, ["line 7"]),
        "timestamp after the year 2100 (time_unit wrong?)": (1, ["line 12"]),
    }


def test_too_many_bad_lines_name_file_and_line(tmp_path: Path):
    with pytest.raises(
        UserError,
        match=r"inter.tsv: 2 bad lines, more than config.corpus.max_bad_lines = 1; unparsable timestamp, first line "
        r"4: u3\\ta\\tsoon",
    ):
        load(tmp_path, GOOD_TSV + "u3\ta\tsoon\nu4\ta\tsoon\n", max_bad_lines=1)


def test_nul_bytes_and_item_without_id(tmp_path: Path):
    loaded = load(tmp_path, GOOD_TSV, ITEMS + "\tnameless\nc\tnu\0l\n")
    assert loaded.rejected["item without id"]["n"] == 1
    assert loaded.items[-1] == ("c", "nu\0l")


FIELD = st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=["Cs"]), max_size=6)
TIME = st.one_of(
    st.integers(-5, 2 * LATEST_SECONDS).map(str),
    st.sampled_from(["", "x", "1e3", "inf", "NaN", "2014-01-05", "--", "1.5"]),
    FIELD,
)
LINE = st.lists(st.one_of(FIELD, TIME), min_size=1, max_size=4).map("\t".join)


@given(lines=st.lists(st.one_of(st.tuples(FIELD, FIELD, TIME).map("\t".join), LINE), max_size=12))
@settings(max_examples=40)
def test_no_line_is_lost_silently(tmp_path: Path, lines):
    text = "user_id\titem_id\ttimestamp\n" + "".join(line + "\n" for line in [*lines, "u1\ta\t5"])
    loaded = load(tmp_path, text)
    assert len(loaded.interactions) + loaded.n_rejected == sum(line != "" for line in lines) + 1
    assert all(0 <= time <= LATEST_SECONDS and user and item for user, item, time in loaded.interactions)
    for line in lines:
        fields = line.split("\t")
        if (
            len(fields) == 3
            and fields[0]
            and fields[1]
            and fields[2].isascii()
            and fields[2].isdigit()
            and int(fields[2]) <= LATEST_SECONDS
        ):
            assert (fields[0], fields[1], int(fields[2])) in loaded.interactions


TITLE = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(
    titles=st.lists(
        st.one_of(TITLE, st.sampled_from(["tab\there", 'q"uo"te', "a,b", "😀" * 5, "x" * 2000, "two\nlines"])),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=25)
def test_quoted_csv_titles_arrive_whole(tmp_path: Path, titles):
    with open(tmp_path / "item.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(
            [("item_id", "title"), *((f"i{n}", title) for n, title in enumerate(titles))]
        )
    (tmp_path / "inter.csv").write_text("user_id,item_id,timestamp\nu,i0,1\n")
    loaded = Loaded(tmp_path / "inter.csv", tmp_path / "item.csv")
    assert loaded.items == sorted(((f"i{n}", title) for n, title in enumerate(titles)), key=str)
