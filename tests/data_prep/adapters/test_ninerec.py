"""NineRec in its real layouts: no header, either order of columns, with and without times."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from tests.data_prep.adapters.loading import Loaded, truncate, write
from tests.data_prep.tables import corpus_of

ITEM_LINES = ['v17551,韩国电影，《女教师》,"Korean Movie, The Governess"', 'v2,"猫, 狗",Cats and dogs', "v3,舞,Dance"]
EN = [("v17551", "Korean Movie, The Governess"), ("v2", "Cats and dogs"), ("v3", "Dance")]
ZH = [("v17551", "韩国电影，《女教师》"), ("v2", "猫, 狗"), ("v3", "舞")]
PAIRS = [("u14500", "v17551", 1646092800), ("u14500", "v2", 1646092900), ("u2", "v17551", 1646093000)]


def items(folder: Path, lines=ITEM_LINES, name: str = "Bili_Food_item.csv") -> Path:
    return write(folder / name, lines)


def pairs(folder: Path, lines, name: str = "Bili_Food_pair.csv") -> Path:
    return write(folder / name, lines)


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("item_first", [False, True])
def test_either_order_of_columns(tmp_path: Path, item_first, gz):
    lines = [f"{item},{user},{time}" if item_first else f"{user},{item},{time}" for user, item, time in PAIRS]
    loaded = Loaded("ninerec", pairs(tmp_path, lines, "B_pair.csv" + gz), items(tmp_path, name="B_item.csv" + gz))
    assert (loaded.interactions, loaded.items, loaded.order) == (PAIRS, EN, "timestamp")
    assert loaded.rejected == {} and loaded.left_over == []


def test_language(tmp_path: Path):
    lines = [",".join(map(str, pair)) for pair in PAIRS]
    assert Loaded("ninerec", pairs(tmp_path, lines), items(tmp_path), language="zh").items == ZH
    assert Loaded("ninerec", pairs(tmp_path, lines), items(tmp_path), language="en").items == EN
    one = items(tmp_path, ["v17551,韩国电影", "v2,猫"])
    with pytest.raises(
        UserError, match=r"lines of 2 fields; expected item, Chinese title, English title; set language = 'zh'"
    ):
        Loaded("ninerec", pairs(tmp_path, lines), one)
    assert Loaded("ninerec", pairs(tmp_path, lines), one, language="zh").items == [("v17551", "韩国电影"), ("v2", "猫")]


def test_without_times_the_order_of_lines_counts(tmp_path: Path):
    lines = ["u1,v3", "u2,v2", "u1,v2", "u1,v17551"]
    loaded = Loaded("ninerec", pairs(tmp_path, lines, "QB_pair.csv"), items(tmp_path))
    assert loaded.order == "position"
    assert [item for user, item, _ in sorted(loaded.interactions, key=lambda row: row[2]) if user == "u1"] == [
        "v3",
        "v2",
        "v17551",
    ]
    with_empty_times = pairs(tmp_path, [line + "," for line in lines], "QB_pair.csv")
    assert Loaded("ninerec", with_empty_times, items(tmp_path), order="position").interactions == loaded.interactions


def test_sequences_of_items(tmp_path: Path):
    lines = ["u1\tv3 v2 v17551", "u2\tv2", "u3", "u4\tv2  v3", "u1\tv2"]
    loaded = Loaded("ninerec", pairs(tmp_path, lines, "QB_behaviour.tsv"), items(tmp_path))
    by_user = [item for user, item, _ in sorted(loaded.interactions, key=lambda row: row[2]) if user == "u1"]
    assert (loaded.order, by_user) == ("position", ["v3", "v2", "v17551", "v2"])
    assert loaded.rejected == {"malformed line: missing columns": 1, "missing item": 1}


def test_a_header_line_after_all_and_milliseconds_and_dates(tmp_path: Path):
    lines = ["item_id,user_id,timestamp", *(f"{item},{user},{time}123" for user, item, time in PAIRS)]
    assert Loaded("ninerec", pairs(tmp_path, lines), items(tmp_path), time_unit="ms").interactions == PAIRS
    lines = ["u14500,v17551,2022-03-01 00:00:00", "u14500,v2,2022-03-01 00:01:40"]
    assert Loaded("ninerec", pairs(tmp_path, lines), items(tmp_path)).interactions == PAIRS[:2]


def test_columns_that_both_may_be_the_items(tmp_path: Path):
    numbered = items(tmp_path, ["1,一,One", "2,二,Two", "3,三,Three"])
    both = pairs(tmp_path, ["1,2,5", "2,3,6"])
    with pytest.raises(
        UserError,
        match=r"cannot tell users from items; set config.corpus.sources.shop.columns = \{'user': '1', 'item': '2'\}",
    ):
        Loaded("ninerec", both, numbered)
    assert Loaded("ninerec", both, numbered, columns={"user": "1", "item": "2"}).interactions == [
        ("1", "2", 5),
        ("2", "3", 6),
    ]
    assert Loaded("ninerec", both, numbered, columns={"user": "2", "item": "1"}).interactions == [
        ("2", "1", 5),
        ("3", "2", 6),
    ]
    with pytest.raises(UserError, match=r"no id of the file of items occurs in its first two columns"):
        Loaded("ninerec", pairs(tmp_path, ["u1,v1,5"]), numbered)


BAD: list[tuple[bytes, str]] = [
    (b"u3,v2", "malformed line: missing columns"),
    (b"u3,v2,7,8", "malformed line: too many columns"),
    (b"u3,v2,soon", "unparsable timestamp"),
    (b"u3,v2,-7", "negative timestamp"),
    (b"u3,v2,1646092800000", "timestamp after the year 2100 (time_unit wrong?)"),
    (b",v2,7", "missing user"),
    (b"u3,,7", "missing item"),
    (b"u3,v\xff,7", "malformed line: invalid encoding"),
    (b"u\x003,v2,\x00", "unparsable timestamp"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_counted_and_shown_with_its_number(tmp_path: Path, line, reason):
    path = pairs(tmp_path, ["u1,v2,9", line, "", "u2,v2,9"])
    loaded = Loaded("ninerec", path, items(tmp_path))
    assert loaded.interactions == [("u1", "v2", 9), ("u2", "v2", 9)]
    assert loaded.rejected == {reason: 1}
    assert loaded.samples[reason][0].startswith(f"{path}: line 2: ")
    with pytest.raises(
        UserError, match=r"_pair.csv: 1 bad lines, more than config.corpus.max_bad_lines = 0; .* first line 2: "
    ):
        Loaded("ninerec", path, items(tmp_path), max_bad_lines=0)


def test_bad_items(tmp_path: Path):
    path = items(tmp_path, [*ITEM_LINES, "v4,舞", ",舞,Dance", "v3,舞,Other", "v5,舞,", "v6,舞,a,b"])
    loaded = Loaded("ninerec", pairs(tmp_path, ["u1,v2,9"]), path)
    assert loaded.items == [*EN, ("v3", "Other"), ("v5", None)]
    assert loaded.rejected == {
        "malformed line: missing columns": 1,
        "malformed line: too many columns": 1,
        "item without id": 1,
    }


def test_files_that_make_no_corpus(tmp_path: Path):
    with pytest.raises(UserError, match=r"_pair.csv: the file is empty; expected one record a line"):
        Loaded("ninerec", pairs(tmp_path, []), items(tmp_path))
    with pytest.raises(UserError, match=r"_pair.csv: lines of one field"):
        Loaded("ninerec", pairs(tmp_path, ["u1"]), items(tmp_path))
    with pytest.raises(UserError, match=r"_item.csv: lines of 1 fields"):
        Loaded("ninerec", pairs(tmp_path, ["u1,v2,3"]), items(tmp_path, ["v2"]))


@pytest.mark.parametrize("which", ["B_pair.csv.gz", "B_item.csv.gz"])
def test_truncated_gzip(tmp_path: Path, which):
    path = pairs(tmp_path, [f"u{n * 7919},v{n},{n * 31 % 1009}" for n in range(20_000)], "B_pair.csv.gz")
    other = items(tmp_path, [f"v{n},标题{n * 7919},Title {n * 31 % 1009}" for n in range(20_000)], "B_item.csv.gz")
    truncate(tmp_path / which)
    with pytest.raises(UserError, match=rf"{which}: (damaged|cannot be read)"):
        Loaded("ninerec", path, other)


def test_to_a_corpus_by_order(tmp_path: Path):
    lines = [f"u{n % 7},v{n % 5}" for n in range(70)]
    source = {"role": "downstream", "adapter": "ninerec", "platform": "bilibili", "language": "zh"}
    source |= {
        "interactions": str(pairs(tmp_path, lines)),
        "items": str(items(tmp_path, [f"v{n},标题{n},T{n}" for n in range(5)])),
    }
    corpus = corpus_of(tmp_path, {"QB": source}, k_core=0)
    assert corpus.items.title[0] == "标题0"
    assert corpus.set_info("QB").split == "leave_one_out"
    assert len(corpus.targets("test", "QB")) == 7


FIELD = st.sampled_from(["u1", "v2", "v3", "-5", "x", "", "1e9", "99999999999999999999", "舞"]) | st.text(
    "0123:|\t\x00\x01'ß", max_size=6
)


@settings(max_examples=30)
@given(lines=st.lists(st.lists(FIELD, min_size=1, max_size=5), max_size=10))
def test_any_lines_are_read_or_counted(tmp_path: Path, lines):
    texts = [",".join(fields) for fields in lines]
    filled = sum(bool(text) for text in texts)
    good = ["u1,v2,9"] * 20  # so that most lines have three fields
    loaded = Loaded("ninerec", pairs(tmp_path, [*good, *texts]), items(tmp_path), columns={"user": "1", "item": "2"})
    assert len(loaded.interactions) + loaded.refused() == filled + 20
    loaded = Loaded(
        "ninerec", pairs(tmp_path, good), items(tmp_path, [*ITEM_LINES * 7, *texts]), columns={"user": "1", "item": "2"}
    )
    assert len(loaded.items) + loaded.refused() == filled + 21
