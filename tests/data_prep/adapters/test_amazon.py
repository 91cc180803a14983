"""The three releases in their real layouts, whole and damaged."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from data_prep.adapters.json_lines import NOT_A_RECORD, read_record
from tests.data_prep.adapters.loading import Loaded, truncate, write
from tests.data_prep.tables import corpus_of

CODE = "title that holds code of the page"


def review14(user: str, item: str, time: object) -> dict:
    text = {
        "helpful": [2, 3],
        "reviewText": 'It\'s 24" wide\n\tand "good"',
        "overall": 5.0,
        "summary": "Caf\u00e9",
        "reviewTime": "01 5, 2014",
    }
    return {"reviewerID": user, "asin": item, "reviewerName": "A. Nonymous", **text, "unixReviewTime": time}


def meta14(item: str, title: object) -> dict:
    related = {"also_bought": ["B1", "B2"]}
    return {
        "asin": item,
        "related": related,
        "title": title,
        "price": 9.99,
        "salesRank": {"Beauty": 7},
        "categories": [["Beauty"]],
    }


def review23(user: str, item: str, time: object) -> dict:
    text = {"rating": 4.0, "title": "Five stars", "text": "Nice<br />smell", "images": []}
    return {
        **text,
        "asin": "B0" + item,
        "parent_asin": item,
        "user_id": user,
        "timestamp": time,
        "helpful_vote": 0,
        "verified_purchase": True,
    }


def meta23(item: str, title: object) -> dict:
    details = {"main_category": "All Beauty", "average_rating": 4.8, "price": None, "bought_together": None}
    return {**details, "title": title, "images": [{"thumb": "https://x/y.jpg", "hi_res": None}], "parent_asin": item}


REVIEWS = [("AU1", "B1", 1388880000), ("AU1", "B2", 1388966400), ("AU2", "B1", 1400000000)]
ITEMS = [("B1", "It's 24\" Caf\u00e9"), ("B2", "Plain")]


@pytest.mark.parametrize("as_text", [json.dumps, repr])
@pytest.mark.parametrize("suffix", ["json.gz", "json"])
def test_2014_json_and_python_literals(tmp_path: Path, as_text, suffix):
    reviews = write(tmp_path / f"reviews_Beauty_5.{suffix}", [as_text(review14(*review)) for review in REVIEWS])
    meta = write(tmp_path / f"meta_Beauty.{suffix}", [as_text(meta14(*item)) for item in ITEMS])
    loaded = Loaded("amazon2014", reviews, meta)
    assert (loaded.interactions, loaded.items, loaded.order) == (REVIEWS, ITEMS, "timestamp")
    assert loaded.rejected == {} and loaded.left_over == []


def test_both_kinds_of_line_in_one_file_and_a_byte_order_mark(tmp_path: Path):
    lines = [
        "\ufeff" + json.dumps(review14(*REVIEWS[0])),
        "",
        repr(review14(*REVIEWS[1])),
        "  \t",
        json.dumps(review14(*REVIEWS[2])) + "\r",
    ]
    loaded = Loaded(
        "amazon2014",
        write(tmp_path / "r.json", lines),
        write(tmp_path / "m.json", [repr(meta14(*item)) for item in ITEMS]),
    )
    assert (loaded.interactions, loaded.rejected) == (REVIEWS, {})


def test_2018_titles_that_are_code_of_the_page(tmp_path: Path):
    code = "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();"
    titles = [("B1", code), ("B2", "BudgetTime Planner"), ("B3", None), ("B4", "<script>x</script>")]
    meta = write(
        tmp_path / "meta_Office_Products.json.gz",
        [json.dumps({"asin": item, "title": title, "tech1": ""}) for item, title in titles],
    )
    reviews = write(
        tmp_path / "Office_Products_5.json.gz",
        [json.dumps(review14("AU1", item, n)) for n, (item, _) in enumerate(titles)],
    )
    loaded = Loaded("amazon2018", reviews, meta)
    assert loaded.items == [("B1", None), ("B2", "BudgetTime Planner"), ("B3", None), ("B4", None)]
    assert loaded.rejected == {CODE: 2}
    assert loaded.samples[CODE][0].startswith("shop B1: var aPageStart")
    assert len(loaded.interactions) == 4


def test_2023_lines_and_csv_agree(tmp_path: Path):
    times = [(user, item, time * 1000 + 999) for user, item, time in REVIEWS]
    meta = write(tmp_path / "meta_All_Beauty.jsonl.gz", [json.dumps(meta23(*item)) for item in ITEMS])
    lines = Loaded(
        "amazon2023", write(tmp_path / "All_Beauty.jsonl.gz", [json.dumps(review23(*review)) for review in times]), meta
    )
    rows = ["user_id,parent_asin,rating,timestamp", *(f"{user},{item},4.0,{time}" for user, item, time in times)]
    table = Loaded("amazon2023", write(tmp_path / "All_Beauty.csv.gz", rows), meta)
    assert lines.interactions == table.interactions == REVIEWS
    assert lines.items == table.items == ITEMS
    older = [json.dumps({**review23(user, item, None), "sort_timestamp": time}) for user, item, time in times]
    assert Loaded("amazon2023", write(tmp_path / "older.jsonl", older), meta).interactions == REVIEWS


GOOD_META = [json.dumps(meta23(*item)) for item in ITEMS]
BAD_REVIEWS: list[tuple[str | bytes, str]] = [
    (json.dumps(review23("AU3", "B1", -1)), "negative timestamp"),
    (json.dumps(review23("AU3", "B1", 4_200_000_000_000)), "timestamp after the year 2100 (time_unit wrong?)"),
    (json.dumps(review23("AU3", "B1", True)), "wrong type: timestamp is no number"),
    (json.dumps(review23("AU3", "B1", "yesterday")), "unparsable timestamp"),
    (json.dumps(review23("AU3", "B1", None)), "unparsable timestamp"),
    (json.dumps(review23("AU3", "B1", {})), "wrong type: timestamp is no number"),
    (
        "{'user_id': 'AU3', 'parent_asin': 'B1', 'timestamp': 0x" + "f" * 5000 + "}",
        "wrong type: timestamp is no number",
    ),
    (json.dumps(review23("", "B1", 5000)), "missing user"),
    (json.dumps(review23("AU3", "B1", 5000) | {"user_id": ["AU3"]}), "wrong type: user_id is no text"),
    (repr(review23("AU3", "B1", 5000) | {"user_id": 3}), "wrong type: user_id is no text"),
    (repr(review23("AU3", "B1", True)), "wrong type: timestamp is no number"),
    (json.dumps(review23("AU3", "B1", 5000) | {"parent_asin": None}), "missing item"),
    ("[1, 2]", "missing user"),
    ('{"user_id": "AU3", "parent_as', NOT_A_RECORD),
    ("{'user_id': __import__('os').getcwd()}", NOT_A_RECORD),
    ("(" * 5000, NOT_A_RECORD),
    ('{"user_id": "\\ud800", "parent_asin": "B1", "timestamp": 5000}', NOT_A_RECORD),
    (b'{"user_id": "AU\x003", "parent_asin": "B1", "timestamp": 5000}', NOT_A_RECORD),
    (b"\x00\x00", NOT_A_RECORD),
    (b'{"user_id": "AU\xff", "parent_asin": "B1", "timestamp": 5000}', "malformed line: invalid encoding"),
    (b'{"user_id": "AU\x01", "parent_asin": "B1", "timestamp": 5000}', NOT_A_RECORD),
]


@pytest.mark.parametrize(("line", "reason"), BAD_REVIEWS)
def test_a_bad_line_is_counted_and_shown_with_its_number(tmp_path: Path, line, reason):
    good = json.dumps(review23("AU1", "B1", 7000))
    # The refused line before it makes no row, so that line numbers are not row numbers.
    reviews = write(tmp_path / "X.jsonl.gz", [good, b"\xff", "", line, good])
    loaded = Loaded("amazon2023", reviews, write(tmp_path / "meta_X.jsonl.gz", GOOD_META))
    assert loaded.interactions == [("AU1", "B1", 7)] * 2
    assert loaded.rejected.pop("malformed line: invalid encoding") == (
        2 if reason == "malformed line: invalid encoding" else 1
    )
    if loaded.rejected:
        assert loaded.rejected == {reason: 1}
        assert loaded.samples[reason][0].startswith(f"{reviews}: line 4: ")


def test_too_many_bad_lines_name_file_and_line(tmp_path: Path):
    lines = [json.dumps(review23("AU1", "B1", 7000)), "{broken", json.dumps(review23("AU1", "B1", -3))]
    meta = write(tmp_path / "meta_X.jsonl.gz", GOOD_META)
    with pytest.raises(
        UserError,
        match=r"X.jsonl.gz: 2 bad lines, more than config.corpus.max_bad_lines = 1; negative .* first line 3: ",
    ):
        Loaded("amazon2023", write(tmp_path / "X.jsonl.gz", lines), meta, max_bad_lines=1)
    with pytest.raises(UserError, match=r"X.jsonl: 4000 bad lines.*first line 1: \{broken"):
        Loaded("amazon2023", write(tmp_path / "X.jsonl", ["{broken"] * 9000), meta, max_bad_lines=2500)


def test_bad_metadata(tmp_path: Path):
    lines = [
        *GOOD_META,
        "{'parent_asin': 'B3', 'title': 7}",
        json.dumps(meta23("", "x")),
        '{"parent_asin": "B4"}',
        '{"title": "x"}',
        "{",
    ]
    reviews = write(tmp_path / "X.jsonl", [json.dumps(review23("AU1", "B1", 7000))])
    loaded = Loaded("amazon2023", reviews, write(tmp_path / "meta_X.jsonl", lines))
    assert loaded.items == [*ITEMS, ("B4", None)]
    assert loaded.rejected == {"wrong type: title is no text": 1, "item without id": 2, NOT_A_RECORD: 1}
    assert [sample.split(": ")[1] for sample in loaded.samples["item without id"]] == ["line 4", "line 6"]


@pytest.mark.parametrize("which", ["X.jsonl.gz", "X.csv.gz", "meta_X.jsonl.gz"])
def test_truncated_gzip(tmp_path: Path, which):
    many = [(f"AU{n * 7919}", "B1", n * 31 % 1009) for n in range(20_000)]
    paths = {
        "X.jsonl.gz": [json.dumps(review23(*review)) for review in many],
        "X.csv.gz": [
            "user_id,parent_asin,rating,timestamp",
            *(f"{user},{item},5.0,{time}" for user, item, time in many),
        ],
        "meta_X.jsonl.gz": [json.dumps(meta23(user, f"Title {time}")) for user, _, time in many],
    }
    written = {name: write(tmp_path / name, lines) for name, lines in paths.items()}
    truncate(written[which])
    reviews = written["X.csv.gz" if "csv" in which else "X.jsonl.gz"]
    with pytest.raises(UserError, match=rf"{which}: (damaged|cannot be read)") as caught:
        Loaded("amazon2023", reviews, written["meta_X.jsonl.gz"])
    assert "\n" not in str(caught.value)


def test_a_line_without_end(tmp_path: Path):
    good = json.dumps(review23("AU1", "B1", 7000))
    reviews = write(tmp_path / "X.jsonl.gz", [good, b"\x00" * 2_100_000, good])
    loaded = Loaded("amazon2023", reviews, write(tmp_path / "meta_X.jsonl.gz", GOOD_META))
    assert loaded.interactions == [("AU1", "B1", 7)] * 2
    assert loaded.rejected == {"malformed line: line size over maximum": 1}


def test_files_that_make_no_corpus(tmp_path: Path):
    meta = write(tmp_path / "meta_X.jsonl", GOOD_META)
    with pytest.raises(UserError, match=r"X.jsonl: no readable records; an empty interactions file"):
        Loaded("amazon2023", write(tmp_path / "X.jsonl", []), meta)
    with pytest.raises(UserError, match=r"X.csv: only amazon2023|X.csv: amazon2018 reads reviews as JSON lines"):
        Loaded("amazon2018", write(tmp_path / "X.csv", ["AU1,B1,5.0,7"]), meta)
    with pytest.raises(UserError, match=r"no column 'parent_asin'"):
        Loaded("amazon2023", write(tmp_path / "X.csv", ["user_id,asin,rating,timestamp", "AU1,B1,5.0,7"]), meta)


def test_line_numbers_hold_over_many_lines(tmp_path: Path):
    """DuckDB reads in pieces: rows keep the order of the lines."""
    good, bad = json.dumps(review23("AU1", "B1", 7000)), json.dumps(review23("AU1", "B1", -7000))
    lines: list[str | bytes] = [good] * 150_000
    for n in (10, 70_000, 149_998):
        lines[n], lines[n - 1] = bad, b"\xff"
    loaded = Loaded("amazon2023", write(tmp_path / "X.jsonl", lines), write(tmp_path / "meta_X.jsonl", GOOD_META))
    assert [sample.split(": ")[1] for sample in loaded.samples["negative timestamp"]] == [
        "line 11",
        "line 70001",
        "line 149999",
    ]
    assert len(loaded.interactions) == 150_000 - 6


def test_to_a_corpus_with_unknown_items_and_two_titles(tmp_path: Path):
    reviews = [review23(f"AU{n % 9}", f"B{n % 4}", n * 1000) for n in range(60)]
    meta = [("B0", "Zebra"), ("B0", "Apple &amp; pear"), ("B1", "Book"), ("B2", "")]
    files = {
        "interactions": str(write(tmp_path / "X.jsonl.gz", [json.dumps(review) for review in reviews])),
        "items": str(write(tmp_path / "meta_X.jsonl.gz", [json.dumps(meta23(*item)) for item in meta])),
    }
    corpus = corpus_of(tmp_path, {"X": {"role": "pretrain", "adapter": "amazon2023", **files}}, k_core=0)
    assert corpus.items.title == ["Apple & pear", "Book"]
    rejected = {reason: entry["n"] for reason, entry in corpus.manifest["rejected"].items()}
    assert (
        rejected["interaction with an unknown item"]
        == rejected["interaction with an item that has no usable title"]
        == 15
    )
    assert rejected["item listed more than once"] == 1


def test_nobody_left(tmp_path: Path):
    files = {
        "interactions": str(write(tmp_path / "X.jsonl", [json.dumps(review23("AU1", "B9", 1000))])),
        "items": str(write(tmp_path / "meta_X.jsonl", GOOD_META)),
    }
    with pytest.raises(UserError, match=r"no interaction is left after cleaning.*unknown item \(1\)"):
        corpus_of(tmp_path, {"X": {"role": "pretrain", "adapter": "amazon2023", **files}})


def test_records():
    assert read_record('{"a": NaN}') is not None
    assert read_record("{'a': 'b\\/c', 'd': None}") == {"a": "b\\/c", "d": None}
    assert read_record("{'a': b'x'}") == {"a": b"x"}
    assert read_record("{1: {2}}") == {1: {2}}
    assert read_record("{[]: 1}") is None
    assert read_record("'text'") is None


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**13), 10**13)
    | st.floats()
    | st.text(max_size=5)
    | st.just([1])
    | st.sampled_from(["B1", "5"])
)
RECORDS = st.fixed_dictionaries(
    {}, optional={key: VALUES for key in ("user_id", "parent_asin", "timestamp", "sort_timestamp", "title")}
)
LINES = st.one_of(
    RECORDS.map(json.dumps).map(str.encode),
    RECORDS.map(repr).map(lambda text: text.encode(errors="replace")),
    st.binary(max_size=30),
    st.tuples(RECORDS.map(json.dumps), st.integers(0, 60)).map(lambda cut: cut[0][: cut[1]].encode()),
)


@example(lines=[b"\x01", b"\x01{}", b"\x01\x02"])
@settings(max_examples=30)
@given(lines=st.lists(LINES, max_size=12))
def test_any_lines_are_read_or_counted(tmp_path: Path, lines):
    lines = [line.replace(b"\n", b"").replace(b"\r", b"") for line in lines]
    filled = sum(bool(line.strip(b" \t")) for line in lines)
    reviews = write(tmp_path / "X.jsonl", [json.dumps(review23("AU1", "B1", 7000)), *lines])
    loaded = Loaded("amazon2023", reviews, write(tmp_path / "meta_X.jsonl", GOOD_META))
    assert len(loaded.interactions) + loaded.refused() == filled + 1
    reviews = write(tmp_path / "X.jsonl", [json.dumps(review23("AU1", "B1", 7000))])
    loaded = Loaded("amazon2023", reviews, write(tmp_path / "meta_X.jsonl", [GOOD_META[0], *lines]))
    assert len(loaded.items) + loaded.refused(CODE) == filled + 1
