"""Quoted files of every adapter with quotes, line ends and lines that are not as they should be: counted, or named with
file and line."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from data_prep.adapters.raw_file import LONGEST_LINE
from tests.data_prep.adapters.loading import Loaded, write

ROWS = 200
Lines = list[str]


class Quoted:
    """One file that is read with quotes, `which` of two, and what stands in a good line of it."""

    def __init__(
        self,
        adapter: str,
        which: str,
        names: tuple[str, str],
        header: str,
        other: Lines,
        line: Callable[[str, int], str],
    ):
        self.adapter, self.which, self.names, self.header, self.other, self.line = (
            adapter,
            which,
            names,
            header,
            other,
            line,
        )

    def load(self, folder: Path, lines: Lines, end: str = "\n", **source) -> tuple[Loaded, Path]:
        content = "".join(line + end for line in [*([self.header] if self.header else []), *lines]).encode()
        mine, others = (folder / self.names[n] for n in ((0, 1) if self.which == "interactions" else (1, 0)))
        mine.write_bytes(content)
        write(others, self.other)
        if self.adapter == "ninerec":
            source |= {"columns": {"user": "1", "item": "2"}}
        return Loaded(self.adapter, folder / self.names[0], folder / self.names[1], **source), mine

    def n_lines(self, loaded: Loaded) -> int:
        """Lines of what was kept and of what was refused."""
        kept = loaded.interactions if self.which == "interactions" else loaded.items
        return sum(1 + len(re.findall(r"[\r\n]+", str(row[1]))) for row in kept) + loaded.refused()


META = ['{"parent_asin": "1", "title": "One"}']
FILES = {
    "table interactions": Quoted(
        "table",
        "interactions",
        ("x.csv", "y.csv"),
        "user_id,item_id,timestamp",
        ["item_id,title", "1,One"],
        "{0},1,{1}".format,
    ),
    "table items": Quoted(
        "table", "items", ("x.csv", "y.csv"), "item_id,title", ["user_id,item_id,timestamp", "u,1,5"], "{0},T{1}".format
    ),
    "movielens ratings": Quoted(
        "movielens",
        "interactions",
        ("ratings.csv", "movies.csv"),
        "userId,movieId,timestamp",
        ["movieId,title,genres", "1,One,D"],
        "{0},1,{1}".format,
    ),
    "movielens movies": Quoted(
        "movielens",
        "items",
        ("ratings.csv", "movies.csv"),
        "movieId,title,genres",
        ["userId,movieId,rating,timestamp", "1,1,5,9"],
        "{0},T,{1}".format,
    ),
    "ninerec pairs": Quoted(
        "ninerec", "interactions", ("X_pair.csv", "X_item.csv"), "", ["1,一,One"], "{0},1,{1}".format
    ),
    "ninerec items": Quoted("ninerec", "items", ("X_pair.csv", "X_item.csv"), "", ["u,1,5"], "{0},题,T{1}".format),
    "amazon2023": Quoted(
        "amazon2023",
        "interactions",
        ("X.csv", "meta_X.jsonl"),
        "user_id,parent_asin,timestamp",
        META,
        "{0},1,{1}".format,
    ),
}
GOOD = {name: [file.line(f"u{n}", n) for n in range(ROWS)] for name, file in FILES.items()}


def put(lines: Lines, **text_by_line: str) -> Lines:
    return [text_by_line.get(f"at{n}", line) for n, line in enumerate(lines)]


@pytest.mark.parametrize("name", FILES)
def test_a_quote_that_is_not_closed_is_an_error_with_its_line(tmp_path: Path, name):
    file, lines = FILES[name], GOOD[name]
    first = 11 + bool(file.header)
    for damaged in (
        put(lines, at10='"' + lines[10]),  # open to the end
        put(lines, at10='"' + lines[10], at120='"' + lines[120]),  # text after the closing quote
        [*lines[:10], '"' + lines[10], *lines[10:] * 30],  # more than the excerpt that DuckDB keeps
    ):
        with pytest.raises(
            UserError, match=r"line \d+: a quote opens a field there and is not closed as it should be"
        ) as caught:
            file.load(tmp_path, damaged)
        assert f"{file.names[file.which == 'items']}: line {first}: " in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_quote_that_a_later_line_closes_counts_as_all_its_lines(tmp_path: Path, name):
    file, lines = FILES[name], GOOD[name]
    damaged = put(lines, at50='"' + lines[50], at120=lines[120].replace(",", '",', 1))
    loaded, path = file.load(tmp_path, damaged)
    assert loaded.rejected == {f"line break in {'user' if file.which == 'interactions' else 'item'}": 71}
    assert file.n_lines(loaded) == ROWS
    with pytest.raises(UserError, match=rf"{path.name}: 71 bad lines, more than config.corpus.max_bad_lines = 70"):
        file.load(tmp_path, damaged, max_bad_lines=70)


def test_a_record_of_too_few_fields_counts_as_all_its_lines(tmp_path: Path):
    file, lines = FILES["table interactions"], GOOD["table interactions"]
    loaded, _ = file.load(tmp_path, put(lines, at7='"a\nb\n\nc",1'))
    assert loaded.rejected == {
        "malformed line: missing columns": 1,
        "malformed line: more lines of the same records": 2,
    }
    assert len(loaded.interactions) == ROWS - 1


def test_line_breaks_within_titles_are_kept(tmp_path: Path):
    file, lines = FILES["table items"], GOOD["table items"]
    loaded, _ = file.load(tmp_path, put(lines, at7='u7,"two\nlines"', at8='u8,"x"y'))
    assert ("u7", "two\nlines") in loaded.items and len(loaded.items) == ROWS - 1
    assert loaded.rejected == {"malformed line: unquoted value": 1}


PIECE = st.text('ab1 "', max_size=4)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=8)
@given(lines=st.lists(st.lists(PIECE, min_size=1, max_size=4).map(",".join), max_size=8))
@example(lines=['"ca, a,aaa', '1,"ccb, ,"ab', "b,bb,c", 'a"",1bb,a', 'b,ca c,"1'])
@example(lines=['",1,b"', ',"ac', '"aa,ca,b "', "b, ,a,a"])
def test_any_lines_are_read_or_counted(tmp_path: Path, name, lines):
    file = FILES[name]
    filled = [line for line in [*GOOD[name][:20], *lines, *GOOD[name][20:30]] if line]
    try:
        loaded, _ = file.load(tmp_path, filled)
    except UserError as error:
        assert any('"' in line for line in lines) and re.search(r"csv: line \d+: a quote opens", str(error))
        return
    assert file.n_lines(loaded) >= len(filled)
    assert loaded.refused() <= 2 * len(lines) + 1


@pytest.mark.parametrize("name", [*FILES, "tsv"])
def test_mixed_line_ends_name_the_line(tmp_path: Path, name):
    file = FILES.get(name) or Quoted(
        "table",
        "interactions",
        ("x.tsv", "y.tsv"),
        "user_id\titem_id\ttimestamp",
        ["item_id\ttitle", "1\tOne"],
        "{0}\t1\t{1}".format,
    )
    lines = [file.line(f"u{n}", n) for n in range(ROWS)]
    n = 151 + bool(file.header)
    for text, ending in ((lines[150] + "\r", "CR LF"), ("u\r" + lines[150], "CR")):
        with pytest.raises(
            UserError, match=rf"mixed line ends: line {n} ends in {ending}, those before it in LF; make them alike"
        ):
            file.load(tmp_path, put(lines, at150=text))
    loaded, _ = file.load(tmp_path, lines, "\r\n")
    assert file.n_lines(loaded) == ROWS and loaded.rejected == {}


LONG = "x" * (LONGEST_LINE + 1)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_line_beyond_the_reader_is_an_error(tmp_path: Path, suffix):
    for good, name in (("u,1,5", "X.csv"), ('{"user_id": "u", "parent_asin": "1", "timestamp": 5}', "X.jsonl")):
        header = ["user_id,parent_asin,timestamp"] if name == "X.csv" else []
        path, before = tmp_path / (name + suffix), [*header, *[good] * 9]
        offset = sum(len(line) + 1 for line in before)
        meta = write(tmp_path / "meta_X.jsonl", META)
        for lines in ([*before, LONG, *before], [*before, LONG]):
            with pytest.raises(UserError, match=rf"{path.name}: the line from byte {offset} on is longer than 16 MB"):
                Loaded("amazon2023", write(path, lines), meta)
        loaded = Loaded("amazon2023", write(path, [*before, LONG[:-2], good]), meta)
        assert len(loaded.interactions) == 10 and loaded.refused() >= 1


@pytest.mark.parametrize("name", ["X.csv.gz", "X.jsonl.gz"])
def test_a_gzip_file_with_a_wrong_checksum_is_an_error(tmp_path: Path, name):
    header, line = "user_id,parent_asin,timestamp", "u,1,5"
    lines = [header, line] if "csv" in name else ['{"user_id": "u", "parent_asin": "1", "timestamp": 5}']
    path, meta = write(tmp_path / name, lines), write(tmp_path / "meta_X.jsonl", META)
    assert len(Loaded("amazon2023", path, meta).interactions) == 1
    content = path.read_bytes()
    path.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    with pytest.raises(UserError, match=rf"{name}: damaged \(CRC check failed"):
        Loaded("amazon2023", path, meta)
