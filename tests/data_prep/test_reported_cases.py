"""The inputs of public bug reports (`shared/cases`), one test each; skipped where they are absent."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from tests.conftest import ROOT, shared_directory
from tests.run_jobs import prepare

TMDB = {"user": "userId", "item": "movieId"}


@pytest.fixture(scope="module")
def cases() -> Path:
    return shared_directory("cases")


def prepared(
    workdir: Path, case: Path, inter: str = "inter.csv", items: str = "items.csv", titles: Any = None, **source
) -> Corpus:
    given = {"role": "downstream", "interactions": str(case / inter), "items": str(case / items), **source}
    prepare(
        {"corpus": {"sources": {"shop": given}, "k_core": 0, "titles": titles or {}, "candidates": {"protocols": []}}},
        workdir,
    )
    return Corpus.open(workdir / "corpus")


def test_ids_that_lost_their_leading_zeros_are_an_error_that_says_so(cases: Path, tmp_path: Path):
    with pytest.raises(
        UserError, match=r"78.3% of shop is lost.*480 interactions read, 104 kept.*376 \(78.3%\).*their leading zeros"
    ):
        prepared(tmp_path, cases / "zeros")


def test_titles_of_windows_1252_are_counted_and_can_be_read(cases: Path, tmp_path: Path, capsys):
    corpus = prepared(tmp_path, cases / "cp1252")
    assert len(corpus.items) == 20
    console = capsys.readouterr().err
    assert (
        console.startswith("warning: shop")
        and "30 items read, 20 kept" in console
        and "set its encoding to 'cp1252'" in console
    )
    corpus = prepared(tmp_path, cases / "cp1252", files={"items": {"encoding": "cp1252"}})
    assert len(corpus.items) == 30 and "Red Castle 0 café" in corpus.items.title


def test_titles_nan_are_no_titles(cases: Path, tmp_path: Path, capsys):
    corpus = prepared(tmp_path, cases / "nan")
    assert len(corpus.items) == 20 and "nan" not in corpus.items.title
    assert "10 have the title 'nan'" in capsys.readouterr().err
    assert "nan" in prepared(tmp_path, cases / "nan", titles={"keep_null_words": True}).items.title


def test_ids_that_a_spreadsheet_cut_are_an_error(cases: Path, tmp_path: Path):
    with pytest.raises(
        UserError,
        match=r"30 items read, 5 kept.*25 \(83.3%\) items listed again with another title.*a spreadsheet leaves",
    ):
        prepared(tmp_path, cases / "excel")


def test_times_with_offsets_give_the_corpus_of_their_unix_seconds(cases: Path, tmp_path: Path):
    offsets, unix = (prepared(tmp_path, cases / "offs", name) for name in ("inter.csv", "unix.csv"))
    assert offsets.hash == unix.hash


def test_the_item_may_have_another_name_in_each_file(cases: Path, tmp_path: Path):
    paths = {"inter": "ratings_small.csv", "items": "movies_metadata.csv"}
    with pytest.raises(
        UserError, match=r"movies_metadata.csv: no column 'movieId'; its columns: .*set .*files.items.columns.item to"
    ) as caught:
        prepared(tmp_path, cases / "tmdb", **paths, columns=TMDB)
    assert "did you mean" not in str(caught.value)
    assert (
        len(
            prepared(
                tmp_path, cases / "tmdb", **paths, columns=TMDB, files={"items": {"columns": {"item": "id"}}}
            ).items
        )
        == 30
    )


def test_tsv_as_pandas_writes_it_is_read_with_quotes(cases: Path, tmp_path: Path, capsys):
    prepared(tmp_path, cases / "pdtsv", "inter.tsv", "items.tsv")
    assert "set config.corpus.sources.shop.files.items.quote" in capsys.readouterr().err
    corpus = prepared(tmp_path, cases / "pdtsv", "inter.tsv", "items.tsv", quote='"')
    assert {'Blue Bridge 1 12" vinyl', "Red Castle 0 second line"} <= set(corpus.items.title) and len(
        corpus.items
    ) == 30


def test_utf_16_is_read(cases: Path, tmp_path: Path):
    corpus = prepared(tmp_path, cases / "utf16")
    assert len(corpus.items) == 30 and corpus.manifest["losses"]["shop"]["interactions"]["kept"] == 480


def test_dates_in_words_are_shown_with_file_line_value_and_what_is_read(cases: Path, tmp_path: Path):
    match = (
        r"480 \(100.0%\) unparsable timestamp \(first .*dow/inter.csv: line 2: u0,0015,Fri Sep 15 00:02:01 -0700 "
        r"2017; read are unix sec"
    )
    with pytest.raises(UserError, match=match):
        prepared(tmp_path, cases / "dow")


def test_control_tokens_and_bars_in_titles_are_kept(cases: Path, tmp_path: Path):
    assert "How to use <|endoftext|> tokens" in prepared(tmp_path, cases / "ctl").items.title


SCRIPT = """
import sys
from tests.run_jobs import prepare
paths = dict(zip(("interactions", "items"), sys.argv[1:3]))
prepare({"corpus": {"sources": {"shop": {"role": "downstream", **paths}}, "k_core": 0}}, sys.argv[3])
"""


def test_no_environment_changes_the_corpus(cases: Path, tmp_path: Path):
    """Three time zones, three locales and three working directories, and Parquet times with a zone."""
    hashes = set()
    for n, (zone, locale) in enumerate(
        (("UTC", "C"), ("Asia/Tokyo", "C.UTF-8"), ("America/New_York", "de_DE.ISO-8859-1"))
    ):
        folder = tmp_path / f"from {n}"
        folder.mkdir()
        environment = {**os.environ, "TZ": zone, "LC_ALL": locale, "LANG": locale, "PYTHONPATH": str(ROOT)}
        case = cases / "pq"
        arguments = [
            os.path.relpath(case / "tz.parquet", folder),
            os.path.relpath(case / "items_int.parquet", folder),
            "made",
        ]
        subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments], cwd=folder, env=environment, check=True, capture_output=True
        )
        hashes.add(Corpus.open(folder / "made" / "corpus").hash)
    assert len(hashes) == 1
    assert (
        Corpus.open(tmp_path / "from 0" / "made" / "corpus").manifest["losses"]["shop"]["interactions"]["kept"] == 480
    )
