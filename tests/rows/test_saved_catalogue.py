"""The saved catalogue gives what encoding gives, and is never used where it is stale or damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from cprec_jax.config.text import TemplateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.rows import saved_catalogue
from cprec_jax.rows.saved_catalogue import FILE, build_and_save, load_or_build
from cprec_jax.text import tokenizer
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.workdir import rows_directory

TITLES = ["Halo", "Halo 2", "Zelda", "Mario Kart 8", "Pikmin"]
NEEDED = np.array([0, 2, 3])


@pytest.fixture
def tokens(tmp_path: Path) -> tokenizer.Tokenizer:
    return tokenizer.train([title + "\n" for title in TITLES], [1] * len(TITLES), 300, tmp_path / "tokenizer")


def equal(a: Catalogue, b: Catalogue) -> bool:
    counts = [[getattr(catalogue, name) for name in saved_catalogue.COUNTS] for catalogue in (a, b)]
    arrays = np.array_equal(a.tokens, b.tokens) and np.array_equal(a.offsets, b.offsets)
    return arrays and a.tokens.dtype == b.tokens.dtype and counts[0] == counts[1]


def test_what_is_saved_is_what_is_built(
    tokens: tokenizer.Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Catalogue.build(tokens, TITLES, "\n")
    built_needed = Catalogue.build(tokens, TITLES, "\n", NEEDED)
    assert equal(build_and_save(tmp_path, tokens, TITLES, "\n", NEEDED), built_needed)
    monkeypatch.setattr(tokenizer.Tokenizer, "encode_items", None)  # nothing is encoded again
    assert equal(load_or_build(tmp_path, tokens, TITLES, "\n"), built)
    assert equal(load_or_build(tmp_path, tokens, TITLES, "\n", NEEDED), built_needed)


def test_the_same_bytes_every_time(tokens: tokenizer.Tokenizer, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        build_and_save(tmp_path, tokens, TITLES, "\n", NEEDED)
        contents.append((tmp_path / FILE).read_bytes())
    assert contents[0] == contents[1]


def test_a_stale_one_is_not_used(tokens: tokenizer.Tokenizer, tmp_path: Path) -> None:
    build_and_save(tmp_path, tokens, TITLES, "\n", NEEDED)
    others = [*TITLES[:-1], "Kirby"]
    assert equal(load_or_build(tmp_path, tokens, others, "\n"), Catalogue.build(tokens, others, "\n"))
    assert equal(load_or_build(tmp_path, tokens, TITLES[:3], "\n"), Catalogue.build(tokens, TITLES[:3], "\n"))
    assert equal(load_or_build(tmp_path, tokens, TITLES, " END"), Catalogue.build(tokens, TITLES, " END"))
    trained = tokenizer.train(["Pikmin\n"], [9], 280, tmp_path / "other")
    assert equal(load_or_build(tmp_path, trained, TITLES, "\n"), Catalogue.build(trained, TITLES, "\n"))


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped", "without a column", "wrong lengths", "text"])
def test_a_damaged_one_is_not_used(tokens: tokenizer.Tokenizer, tmp_path: Path, damage: str) -> None:
    build_and_save(tmp_path, tokens, TITLES, "\n", NEEDED)
    path = tmp_path / FILE
    content = path.read_bytes()
    with np.load(path) as arrays:
        columns = dict(arrays)
    if damage == "missing":
        path.unlink()
    elif damage == "without a column":
        np.savez(path, **{name: column for name, column in columns.items() if name != "offsets"})
    elif damage == "wrong lengths":
        np.savez(path, **columns | {"tokens": columns["tokens"][:-1]})
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": content[:-40], "flipped": flipped, "text": b"no numbers"}[damage])
    assert equal(load_or_build(tmp_path, tokens, TITLES, "\n"), Catalogue.build(tokens, TITLES, "\n"))


def test_titles_that_no_row_holds_stop_nobody(tokens: tokenizer.Tokenizer, tmp_path: Path) -> None:
    titles = [*TITLES, "a line\nand another"]
    built = build_and_save(tmp_path, tokens, titles, "\n", NEEDED)
    assert equal(built, Catalogue.build(tokens, titles, "\n", NEEDED)) and not (tmp_path / FILE).exists()


def test_rows_come_with_it(tiny_rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = rows_directory(tiny_rows)
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["file_sizes"][FILE] == (directory / FILE).stat().st_size
    titles, of_rows = Corpus.open(tiny_rows / "corpus").items.title, tokenizer.load(directory / "tokenizer")
    built = Catalogue.build(of_rows, titles, TemplateSpec().end_of_item)
    monkeypatch.setattr(tokenizer.Tokenizer, "encode_items", None)
    assert equal(load_or_build(directory, of_rows, titles, TemplateSpec().end_of_item), built)
