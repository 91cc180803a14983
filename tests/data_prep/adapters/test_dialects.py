"""Tables as people have them: delimiters, encodings, quotes, headers and packings; what is something else is named."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from tests.data_prep.adapters.loading import Loaded
from tests.data_prep.fuzz import EXAMPLES

ROWS = [("u1", "a", "5"), ("u1", "b", "7")]
READ = [("u1", "a", 5), ("u1", "b", 7)]
TITLES = [("a", 'Äpfel, 12" rot'), ("b", "Birne; 梨 | süß")]
INTERACTION_NAMES, ITEM_NAMES = ("user_id", "item_id", "timestamp"), ("item_id", "title")
DELIMITERS = [",", ";", "\t", "|", "::", "^"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]


def table(rows: list[tuple[str, ...]], delimiter: str, header: tuple[str, ...] | None, end: str = "\n") -> str:
    """Rows as RFC 4180 quotes them; without quotes where the delimiter has several characters."""
    rows = [*([header] if header else []), *rows]
    if len(delimiter) > 1:
        return "".join(delimiter.join(row) + end for row in rows)
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator=end).writerows(rows)
    return stream.getvalue()


def load(folder: Path, interactions: bytes, items: bytes, suffix: str = ".csv", **source) -> Loaded:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"inter{suffix}").write_bytes(interactions)
    (folder / f"items{suffix}").write_bytes(items)
    return Loaded("table", folder / f"inter{suffix}", folder / f"items{suffix}", **source)


FIELD = st.text(
    st.characters(exclude_characters='\r\n\0:"', exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=8
)


@settings(max_examples=EXAMPLES)
@given(
    delimiter=st.sampled_from(DELIMITERS),
    encoding=st.sampled_from(ENCODINGS),
    header=st.booleans(),
    named=st.booleans(),
    suffix=st.sampled_from([".csv", ".tsv", ".txt"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    titles=st.lists(FIELD.map(str.strip).filter(bool), min_size=1, max_size=6),
)
def test_any_delimiter_encoding_and_header(tmp_path: Path, delimiter, encoding, header, named, suffix, end, titles):
    if not header and not named:  # then titles that hold another delimiter may tear the lines apart as well
        others = "".join(text for text in DELIMITERS if text != delimiter and len(text) == 1)
        titles = [title.translate(str.maketrans(others, "." * len(others))) for title in titles]
    rows = [(f"i{n}", title) for n, title in enumerate(titles)]
    texts = [
        table(given, delimiter, names if header else None, end).encode(encoding)
        for given, names in ((ROWS, INTERACTION_NAMES), (rows, ITEM_NAMES))
    ]
    source = (
        {"quote": "none" if len(delimiter) > 1 else '"'}
        | ({} if header else {"header": False})
        | ({"delimiter": delimiter} if named else {})
    )
    loaded = load(tmp_path, *texts, suffix=suffix, **source)
    assert loaded.interactions == READ and not loaded.rejected
    assert loaded.items == sorted(rows)


def test_settings_of_one_file_win_over_those_of_both(tmp_path: Path):
    inter = table([("u1", "a", "5")], ";", ("userId", "movieId", "when")).encode("utf-16")
    items = "12::a::Ä\n13::b::B\n".encode("cp1252")
    loaded = load(
        tmp_path,
        inter,
        items,
        ".dat",
        format="csv",
        columns={"user": "userId", "item": "movieId", "time": "when"},
        files={
            "items": {"delimiter": "::", "header": False, "encoding": "cp1252", "columns": {"item": "2", "title": "3"}}
        },
    )
    assert (loaded.interactions, loaded.items) == ([("u1", "a", 5)], [("a", "Ä"), ("b", "B")])


def test_tsv_as_pandas_writes_it(tmp_path: Path, capsys):
    items = b'item_id\ttitle\na\t"Red\nsecond line"\nb\t"12"" vinyl"\n'
    inter = table(ROWS, "\t", INTERACTION_NAMES).encode()
    loaded = load(tmp_path, inter, items, ".tsv", quote='"')
    assert loaded.items == [("a", "Red\nsecond line"), ("b", '12" vinyl')] and not loaded.rejected
    load(tmp_path, inter, items, ".tsv")
    assert "rows have a field that begins with a quote" in (console := capsys.readouterr().err)
    assert "set config.corpus.sources.shop.files.items.quote = '\"'" in console
    load(tmp_path, inter, b"item_id\ttitle\n" + b"a\tplain\n" * 30 + b'b\t"A" is for Alibi\n', ".tsv")
    assert "begins with a quote" not in capsys.readouterr().err


@pytest.mark.parametrize("first", ["sep=", "SEP=", "Sep="])
def test_excel_says_its_delimiter_in_a_first_line(tmp_path: Path, first):
    inter, items = (
        f"{first};\r\n{table(rows, ';', names, end)}"
        for rows, names, end in ((ROWS, INTERACTION_NAMES, "\r\n"), (TITLES, ITEM_NAMES, "\r\n"))
    )
    for encoding in ENCODINGS:
        loaded = load(tmp_path, inter.encode(encoding), items.encode(encoding))
        assert (loaded.interactions, loaded.items) == (READ, TITLES)
    loaded = load(tmp_path, (inter + "u3;a;soon\r\n").encode(), items.encode())
    assert loaded.samples["unparsable timestamp"] == [f"{tmp_path / 'inter.csv'}: line 5: u3;a;soon"]


def test_a_delimiter_that_is_not_the_formats_is_found_by_the_header_and_said(tmp_path: Path, capsys):
    loaded = load(
        tmp_path,
        *(table(rows, ";", names).encode() for rows, names in ((ROWS, INTERACTION_NAMES), (TITLES, ITEM_NAMES))),
    )
    assert (loaded.interactions, loaded.items) == (READ, TITLES)
    assert "inter.csv: its fields are parted by ';'" in capsys.readouterr().err


def zipped(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return stream.getvalue()


def test_archives_and_compressed_files(tmp_path: Path):
    inter, items = (
        table(rows, ",", names).encode() for rows, names in ((ROWS, INTERACTION_NAMES), (TITLES, ITEM_NAMES))
    )
    for suffix, one, two in (
        (".csv.zip", zipped(x__csv=inter), zipped(y__csv=items.decode().encode("utf-16"))),
        (".csv.xz", lzma.compress(inter), lzma.compress(items)),
        (".csv.bz2", bz2.compress(inter), bz2.compress(items)),
        (".zip", zipped(x__csv=inter), zipped(y__csv=items)),
    ):
        loaded = load(tmp_path, one, two, suffix)
        assert (loaded.interactions, loaded.items) == (READ, TITLES), suffix
    with_leftovers = io.BytesIO()
    with zipfile.ZipFile(with_leftovers, "w") as archive:
        for name, content in {
            ".DS_Store": b"x",
            "__MACOSX/._x.csv": b"y",
            "folder/x.csv": inter,
            "folder/.hidden.csv": b"z",
        }.items():
            archive.writestr(name, content)
    assert load(tmp_path, with_leftovers.getvalue(), zipped(y__csv=items), ".zip").interactions == READ
    both = zipped(ratings__csv=inter, movies__csv=items)
    files = {"interactions": {"member": "ratings.csv"}, "items": {"member": "movies.csv"}}
    assert load(tmp_path, both, both, ".zip", files=files).interactions == READ
    with pytest.raises(
        UserError,
        match=r"inter.zip: a zip archive of 2 files \(movies.csv, ratings.csv\); set .*files.interactions.member",
    ):
        load(tmp_path, both, both, ".zip")
    with pytest.raises(UserError, match=r"items.member: .* has no 'movie.csv'; did you mean 'movies.csv'"):
        load(tmp_path, both, both, ".zip", files=files | {"items": {"member": "movie.csv"}})
    with pytest.raises(UserError, match=r"items.csv.zip: damaged"):
        load(tmp_path, zipped(x__csv=inter), zipped(y__csv=items)[:-30], ".csv.zip")


def test_without_a_header_line_the_delimiter_is_the_one_under_which_most_lines_are_whole(tmp_path: Path):
    inter = table(ROWS, ";", None).encode()
    for titles in (["a;,\n", "b;x\n"], ["a;,\n"], ["a;1, 2\n", "b;x\n", "c;y\n"]):
        loaded = load(tmp_path, inter, "".join(titles).encode(), header=False)
        assert [item for item, _ in loaded.items] == [line[0] for line in titles]


def test_a_quote_that_stands_between_the_fields_is_refused(tmp_path: Path):
    texts = [table(rows, ",", names).encode() for rows, names in ((ROWS, INTERACTION_NAMES), (TITLES, ITEM_NAMES))]
    with pytest.raises(UserError, match=r"files.items.quote: ',' stands between the fields of .*items.csv, too"):
        load(tmp_path, *texts, files={"items": {"quote": ","}})


def test_an_encoding_that_cannot_say_what_it_lacks_is_refused(tmp_path: Path):
    texts = [table(rows, ",", names).encode() for rows, names in ((ROWS, INTERACTION_NAMES), (TITLES, ITEM_NAMES))]
    for encoding in ("idna", "punycode", "undefined", "rot13", "hex"):
        with pytest.raises(UserError, match=f"encoding '{encoding}': not known"):
            load(tmp_path, *texts, encoding=encoding)


def test_a_first_line_sep_that_ends_otherwise_is_named(tmp_path: Path):
    inter, items = (
        table(rows, ";", names).encode() for rows, names in ((ROWS, INTERACTION_NAMES), (TITLES, ITEM_NAMES))
    )
    with pytest.raises(UserError, match=r"inter.csv: mixed line ends: line 2 ends in LF, those before it in CR LF"):
        load(tmp_path, b"sep=;\r\n" + inter, items)


def test_blanks_round_the_names_of_columns_are_no_delimiter(tmp_path: Path):
    inter = "user_id , item_id ,timestamp\nu1,a,5\n"
    with pytest.raises(UserError, match=r"inter.csv: no column 'user_id'; did you mean 'user_id '"):
        load(tmp_path, inter.encode(), table(TITLES, ",", ITEM_NAMES).encode())


def test_one_column_is_not_two_things(tmp_path: Path):
    texts = [table(rows, ",", names).encode() for rows, names in ((ROWS, INTERACTION_NAMES), (TITLES, ITEM_NAMES))]
    for columns in ({"user": "item_id"}, {"item": "user_id"}, {"time": "user_id"}):
        with pytest.raises(UserError, match="is named for two of user, item and time"):
            load(tmp_path, *texts, files={"items": {"columns": {"item": "item_id"}}}, columns=columns)
    # an id may be the title
    assert load(tmp_path, *texts, columns={"title": "item_id"}).items == [
        ("a", "a"),
        ("b", "b"),
    ]


def test_a_file_without_a_header_line_is_named_with_what_to_do(tmp_path: Path):
    inter, items = table(ROWS, ",", None).encode(), table([("1", "One")], ",", None).encode()
    match = (
        r"items.csv: no column 'item_id'; its first line looks like data, not names \(1,One\): if it has no "
        r".*files.items.header = False"
    )
    with pytest.raises(UserError, match=match):
        load(tmp_path, inter, items)
    assert load(tmp_path, inter, items, header=False).interactions == READ
    with pytest.raises(
        UserError,
        match=r"inter.csv: no column '9': it has no header line .* and 3 columns; set .*columns.user to a place from "
        r"'1' to '3'",
    ):
        load(tmp_path, inter, items, header=False, columns={"user": "9"})


@pytest.mark.parametrize("first", ["B0017,Apple", "1,One", "ab-12-cd,Apple 1"])
def test_a_first_line_that_is_written_as_those_below_is_no_header(tmp_path: Path, first):
    items = "".join(f"{line}\n" for line in (first, *(first.replace("1", str(n)) for n in range(2, 9)))).encode()
    with pytest.raises(UserError, match=r"items.csv: no column 'item_id'; its first line looks like data, not names"):
        load(tmp_path, table(ROWS, ",", INTERACTION_NAMES).encode(), items)


def test_a_header_that_is_read_as_data_is_said(tmp_path: Path, capsys):
    texts = [table(rows, ",", names).encode() for rows, names in ((ROWS, INTERACTION_NAMES), (TITLES, ITEM_NAMES))]
    load(tmp_path, *texts, header=False)
    assert (
        "items.csv: its first line looks like a header (item_id, title), which header = False reads as data"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("mark", ['"', "'"])
@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_quoted_column_names_ask_for_the_quote_and_not_for_the_columns(tmp_path: Path, mark, suffix):
    delimiter = "\t" if suffix == ".tsv" else ","
    texts = []
    for rows, names in ((ROWS, INTERACTION_NAMES), (TITLES, ITEM_NAMES)):
        stream = io.StringIO()
        csv.writer(stream, delimiter=delimiter, quotechar=mark, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(
            [names, *rows]
        )
        texts.append(stream.getvalue().encode())
    if (mark, suffix) != ('"', ".csv"):
        with pytest.raises(
            UserError, match=r"no column 'item_id', but .item_id.: its fields are quoted; set .*files.items.quote = "
        ):
            load(tmp_path, *texts, suffix=suffix)
    loaded = load(tmp_path, *texts, suffix=suffix, quote=mark)
    assert (loaded.interactions, loaded.items) == (READ, TITLES)


@pytest.mark.parametrize("name", ["items.jsonl", "items.json", "items"])
def test_json_with_its_own_ending_is_named_at_once(tmp_path: Path, name):
    (tmp_path / "inter.csv").write_bytes(table(ROWS, ",", INTERACTION_NAMES).encode())
    (tmp_path / name).write_text('{"item_id": "a", "title": "A"}\n' * 2)
    with pytest.raises(UserError, match=r"JSON and no delimited text; .*lines=True"):
        Loaded("table", tmp_path / "inter.csv", tmp_path / name)
    with pytest.raises(UserError, match=r"JSON and no delimited text; .*lines=True"):
        Loaded("table", tmp_path / "inter.csv", tmp_path / name, format="csv", delimiter=",")


def test_bytes_that_are_no_text_in_the_given_encoding_are_bad_lines(tmp_path: Path):
    inter = table(ROWS, ",", INTERACTION_NAMES).encode()
    loaded = load(tmp_path, inter, b"item_id,title\na,caf\xe9\nb,\x81\n", files={"items": {"encoding": "cp1252"}})
    assert loaded.items == [("a", "café")]
    assert sum(loaded.rejected.values()) == 1 and next(iter(loaded.rejected)).startswith("malformed line: invalid")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"user_id": "u1", "item_id": "a", "timestamp": 5}\n' * 3,
            "JSON and no delimited text; write it as CSV or Parquet",
        ),
        (b'[{"user_id": "u1"},\n {"user_id": "u2"}]\n', "JSON and no delimited text"),
        (b"[\n {\n", "JSON and no delimited text"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 50, r"a Zstandard file; unpack it first \(`zstd -d`\)"),
        (b"PK\x03\x04", "damaged or not a zip archive"),
        (b"<!DOCTYPE html><html>", "a web page or XML, not the data"),
        (b"\x80\x04\x95", "a pickle, which is never read"),
        (b"\x93NUMPY\x01\0v\0{", "a NumPy array; write the table as CSV or Parquet"),
        (
            b'[["a", "A"], ["b", "B"]]',
            r"JSON and no delimited text; write it as CSV or Parquet \(`pandas.read_json\(PATH\).to_parquet",
        ),
        (zipped(), "a zip archive without a file"),
        (zipped(x__zip=zipped(x__csv=b"item_id,title\n")), "a zip file that holds a zip file; unpack it first"),
        (
            zipped(x__gz=gzip.compress(b"item_id,title\n", mtime=0)),
            "a zip file that holds a gzip file; unpack it first",
        ),
        (
            gzip.compress(bz2.compress(b"item_id,title\n"), mtime=0),
            "a gzip file that holds a bzip2 file; unpack it first",
        ),
        (
            b"\n\nitem_id,title\n",
            "its first line is blank; expected a header line with column names: take blank lines out",
        ),
        (
            b"Nummer,T\xeftel\n",
            "no column 'item_id'; its first line is no text in utf-8: if it is in another one, set .*items.encoding",
        ),
        (
            b"item_id,title\n1,caf\xe9\n2,th\xe9\n",
            "no readable rows after the header; malformed line: invalid .*2 times, first .*cp1252",
        ),
        (
            b'item_id,title\n1,"A" b\n2,"B" c\n',
            "no readable rows after the header; malformed line: unquoted value .*set quote = 'none'",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            r"a Git LFS pointer and not the file itself; fetch it \(`git lfs pull`\)",
        ),
        (b"PAR1" + b"x" * 50, r"a Parquet file; set .*files.items.format = 'parquet'"),
        (
            zipped(**{"[Content_Types]__xml": b"", "xl/workbook__xml": b""}),
            r"an Office document \(.xlsx\); save the sheet as CSV UTF-8",
        ),
    ],
)
def test_what_is_no_table_is_named_for_what_it_is(tmp_path: Path, content, message):
    inter = table(ROWS, ",", INTERACTION_NAMES).encode()
    with pytest.raises(UserError, match=rf"items.csv: {message}") as caught:
        load(tmp_path, inter, content, format="csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"parent_asin,title\na,Apple\nb,Pear\n",
            "no JSON records but 'parent_asin,title'; adapter 'table' reads CSV, TSV and Parquet",
        ),
        (
            json.dumps([{"parent_asin": "a"}], indent=1).encode(),
            "one JSON value over the whole file; write one record a line",
        ),
        (b"PAR1" + b"x" * 50, "a Parquet file and no JSON; adapter 'table' reads it"),
    ],
)
def test_what_is_no_json_is_named_for_what_it_is(tmp_path: Path, content, message):
    (tmp_path / "X.jsonl").write_text('{"user_id": "u", "parent_asin": "a", "timestamp": 5}\n')
    (tmp_path / "meta_X.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=rf"meta_X.jsonl: {message}"):
        Loaded("amazon2023", tmp_path / "X.jsonl", tmp_path / "meta_X.jsonl")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_json_lines_in_other_encodings_and_archives(tmp_path: Path, encoding):
    review, meta = (
        '{"user_id": "u", "parent_asin": "a", "timestamp": 5000}\n',
        '{"parent_asin": "a", "title": "Äpfel"}\n',
    )
    (tmp_path / "X.zip").write_bytes(zipped(x__jsonl=review.encode(encoding)))
    (tmp_path / "meta_X.jsonl").write_bytes(meta.encode(encoding))
    loaded = Loaded("amazon2023", tmp_path / "X.zip", tmp_path / "meta_X.jsonl")
    assert (loaded.interactions, loaded.items) == ([("u", "a", 5)], [("a", "Äpfel")])


def test_settings_of_text_for_parquet_are_refused(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"item_id": ["a"], "title": ["A"]}), tmp_path / "items.parquet")
    (tmp_path / "inter.csv").write_bytes(table(ROWS, ";", INTERACTION_NAMES).encode())
    paths = tmp_path / "inter.csv", tmp_path / "items.parquet"
    assert Loaded("table", *paths, delimiter=";").interactions == READ
    with pytest.raises(UserError, match=r"files.items.delimiter: .*items.parquet is Parquet; leave it out"):
        Loaded("table", *paths, files={"items": {"delimiter": ";"}})
