"""The releases of MovieLens in their real layouts, whole and damaged."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from tests.data_prep.adapters.loading import Loaded, truncate, write
from tests.data_prep.tables import corpus_of

RATINGS = [("1", "1193", 978300760), ("1", "661", 978302109), ("2", "1193", 978298413)]
MOVIES = [("1193", 'Les Misérables, "La" | 1995'), ("661", "James and the Giant Peach (1996)")]


def files_100k(folder: Path, ratings=RATINGS, movies=MOVIES, gz: str = "") -> tuple[Path, Path]:
    genres = "|".join("0" * 19)
    items = [f"{movie}|{title.replace('|', '/')}|01-Jan-1995||http://us.imdb.com/M|{genres}" for movie, title in movies]
    data = [f"{user}\t{movie}\t3\t{time}" for user, movie, time in ratings]
    return write(folder / f"u.data{gz}", data), write(folder / f"u.item{gz}", items, "latin-1")


def files_dat(folder: Path, ratings=RATINGS, movies=MOVIES, encoding: str = "latin-1") -> tuple[Path, Path]:
    items = [f"{movie}::{title}::Drama|Children's" for movie, title in movies]
    return write(folder / "ratings.dat", [f"{u}::{m}::5::{time}" for u, m, time in ratings]), write(
        folder / "movies.dat", items, encoding
    )


def files_csv(folder: Path, ratings=RATINGS, movies=MOVIES, gz: str = "") -> tuple[Path, Path]:
    quoted = ['{},"{}",Adventure|Children'.format(movie, title.replace('"', '""')) for movie, title in movies]
    rows = [f"{user},{movie},3.5,{time}" for user, movie, time in ratings]
    return (
        write(folder / f"ratings.csv{gz}", ["userId,movieId,rating,timestamp", *rows]),
        write(folder / f"movies.csv{gz}", ["movieId,title,genres", *quoted]),
    )


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_100k(tmp_path: Path, gz):
    loaded = Loaded("movielens", *files_100k(tmp_path, gz=gz))
    assert (loaded.interactions, loaded.order, loaded.rejected, loaded.left_over) == (RATINGS, "timestamp", {}, [])
    assert loaded.items == [(movie, title.replace("|", "/")) for movie, title in MOVIES]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_1m_and_10m(tmp_path: Path, encoding):
    loaded = Loaded("movielens", *files_dat(tmp_path, encoding=encoding))
    assert (loaded.interactions, loaded.items, loaded.rejected) == (RATINGS, MOVIES, {})


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_20m_to_32m(tmp_path: Path, gz):
    loaded = Loaded("movielens", *files_csv(tmp_path, gz=gz))
    assert (loaded.interactions, loaded.items, loaded.rejected) == (RATINGS, MOVIES, {})


BAD: list[tuple[bytes, str]] = [
    (b"3::661::5", "malformed line: missing columns"),
    (b"3::661::5::7::8", "malformed line: too many columns"),
    (b"3::661::5::soon", "unparsable timestamp"),
    (b"3::661::5::-7", "negative timestamp"),
    (b"3::661::5::978302109000", "timestamp after the year 2100 (time_unit wrong?)"),
    (b"::661::5::7", "missing user"),
    (b"3::::5::7", "missing item"),
    (b"3::66\xff1::5::7", "malformed line: invalid encoding"),
    (b"\x00::661::5::\x00", "unparsable timestamp"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_counted_and_shown_with_its_number(tmp_path: Path, line, reason):
    ratings, movies = files_dat(tmp_path)
    write(ratings, [b"1::661::5::9", line, b"", b"2::661::5::9"])
    loaded = Loaded("movielens", ratings, movies)
    assert loaded.interactions == [("1", "661", 9), ("2", "661", 9)]
    assert loaded.rejected == {reason: 1}
    assert loaded.samples[reason][0].startswith(f"{ratings}: line 2: ")
    with pytest.raises(
        UserError, match=r"ratings.dat: 1 bad lines, more than config.corpus.max_bad_lines = 0; .* first line 2: "
    ):
        Loaded("movielens", ratings, movies, max_bad_lines=0)


def test_bad_movies_and_other_files(tmp_path: Path):
    ratings, movies = files_dat(tmp_path)
    write(movies, ["1::Toy Story (1995)::Animation", "2::Jumanji", "::Nameless::Drama", "1::Other::Drama"])
    loaded = Loaded("movielens", ratings, movies)
    assert loaded.items == [("1", "Other"), ("1", "Toy Story (1995)")]
    assert loaded.rejected == {"malformed line: missing columns": 1, "item without id": 1}
    with pytest.raises(UserError, match=r"tags.txt: MovieLens files end in .data, .dat, .csv"):
        Loaded("movielens", write(tmp_path / "tags.txt", ["x"]), movies)
    with pytest.raises(UserError, match=r"ratings.dat: the file is empty; expected one record a line"):
        Loaded("movielens", write(ratings, []), movies)
    with pytest.raises(UserError, match=r"links.csv: no column 'title'"):
        Loaded("movielens", ratings, write(tmp_path / "links.csv", ["movieId,imdbId", "1,2"]))


@pytest.mark.parametrize("which", ["u.data.gz", "u.item.gz", "ratings.csv.gz", "movies.csv.gz"])
def test_truncated_gzip(tmp_path: Path, which):
    ratings = [(str(n * 7919), "661", n * 31 % 1009) for n in range(20_000)]
    movies = [(str(n), f"Film {n * 7919 % 1009}") for n in range(20_000)]
    make = files_csv if "csv" in which else files_100k
    paths = make(tmp_path, ratings, movies, gz=".gz")
    truncate(tmp_path / which)
    with pytest.raises(UserError, match=rf"{which}: (damaged|cannot be read)"):
        Loaded("movielens", *paths)


def test_to_a_corpus(tmp_path: Path):
    ratings = [(str(n % 7), str(n % 5), 1000 + n) for n in range(70)]
    interactions, items = files_100k(tmp_path, ratings, [(str(n), f"Film {n}") for n in range(4)])
    source = {"role": "pretrain", "adapter": "movielens", "interactions": str(interactions), "items": str(items)}
    corpus = corpus_of(tmp_path, {"Movies": source}, k_core=0)
    assert len(corpus.items) == 4
    assert corpus.manifest["rejected"]["interaction with an unknown item"]["n"] == 14
    assert corpus.manifest["sources"]["Movies"]["adapter"] == "movielens"


FIELD = st.sampled_from(["1", "661", "-5", "x", "", "1e9", "99999999999999999999", "é", '"']) | st.text(
    "0123:|\t,\x00\x01'ß", max_size=6
)


@settings(max_examples=30)
@given(lines=st.lists(st.lists(FIELD, min_size=1, max_size=6), max_size=10), separator=st.sampled_from(["::", "\t"]))
def test_any_lines_are_read_or_counted(tmp_path: Path, lines, separator):
    texts = [separator.join(fields) for fields in lines]
    filled = sum(bool(text) for text in texts)
    ratings, movies = files_dat(tmp_path) if separator == "::" else files_100k(tmp_path)
    write(ratings, [separator.join(("1", "661", "5", "9")), *texts])
    loaded = Loaded("movielens", ratings, movies)
    assert len(loaded.interactions) + loaded.refused() == filled + 1
    ratings, movies = files_dat(tmp_path)
    write(movies, ["1::Toy Story (1995)::Animation", *("::".join(fields) for fields in lines)], "utf-8")
    filled = sum(bool("::".join(fields)) for fields in lines)
    loaded = Loaded("movielens", ratings, movies)
    assert len(loaded.items) + loaded.refused() == filled + 1
