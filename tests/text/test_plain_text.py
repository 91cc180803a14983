"""General text: files become documents, nothing is lost silently, and the split `text` is rows like any other."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_jax.config.pack import PackSpec, PlainTextSpec
from cprec_jax.config.root import make_config
from cprec_jax.config.rows import RowsKind
from cprec_jax.errors import UserError
from cprec_jax.rows import dataset as rows
from cprec_jax.rows import write_splits
from cprec_jax.text import plain_text, tokenizer
from cprec_jax.text.plain_text import PlainText
from tests import road
from tests import run_jobs as jobs

STORY = "One day a fox met a crow.\nThe crow had cheese.\n\nThe fox wanted it.\n"


def texts_of(folder: Path, **changes: Any) -> tuple[list[str], plain_text.TextCounts]:
    plain = PlainText(PlainTextSpec(root=str(folder), **({"files": ("**/*",)} | changes)))
    return list(plain._texts()), plain.counts


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "sub/deep/a.TXT"])
@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("file", [STORY.rstrip("\n")]),
        ("paragraph", ["One day a fox met a crow.\nThe crow had cheese.", "The fox wanted it."]),
        ("line", ["One day a fox met a crow.", "The crow had cheese.", "The fox wanted it."]),
    ],
)
def test_documents_of_a_text_file(tmp_path: Path, name: str, document: str, expected: list[str]) -> None:
    write(tmp_path / name, "\ufeff" + STORY)
    texts, counts = texts_of(tmp_path, document=document)
    assert texts == expected and counts.texts == len(expected) and counts.bad_lines == 0


def test_a_long_file_comes_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_text, "CHARACTERS_PER_BLOCK", 40)
    write(tmp_path / "a.txt", STORY)
    texts, _ = texts_of(tmp_path)
    assert len(texts) == 2 and "\n".join(texts) == STORY.rstrip("\n")


def test_json_lines_and_what_is_wrong_with_some(tmp_path: Path) -> None:
    good = [json.dumps({"story": f"text {i}", "id": i}) for i in range(3)]
    bad = [
        "{cut",
        "[1]",
        '{"stori": "x"}',
        '{"story": 3}',
        '{"story": "  "}',
        '{"story": null}',
        "9" * 5000,
        "[" * 5000,
    ]
    path = write(tmp_path / "a.jsonl.gz", "\n".join([good[0], *bad, good[1], "", good[2]]).encode() + b"\n\xff\xfe{}\n")
    texts, counts = texts_of(tmp_path, field="story")
    assert texts == ["text 0", "text 1", "text 2"]
    assert (counts.bad_lines, counts.empty) == (8, 1)
    assert (
        counts.samples[0] == f"{path}: line 2: not JSON"
        and "did you mean 'stori'?" in counts.samples[2]
        and len(counts.samples) == 5
    )
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: line 4: .*max_bad_lines \(2\)"):
        texts_of(tmp_path, field="story", max_bad_lines=2)
    with pytest.raises(UserError, match="holds no text"):
        texts_of(tmp_path, field="absent")


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"text": "a \\ud83d b"}\n')
    assert texts_of(tmp_path)[0] == ["a ? b"]


def test_a_file_of_the_name_wins_over_the_pattern_and_the_root_is_none(tmp_path: Path) -> None:
    for name in ("a[1].txt", "a1.txt", "a2.txt", "ab.txt"):
        write(tmp_path / "r[x]" / name, name)
    write(tmp_path / "rx" / "a1.txt", "another root")
    for files, texts in (
        (("a[1].txt",), ["a[1].txt"]),
        (("a[12].txt",), ["a1.txt", "a2.txt"]),
        (("a?.txt",), ["a1.txt", "a2.txt", "ab.txt"]),
    ):
        assert texts_of(tmp_path / "r[x]", files=files)[0] == texts


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("absent.txt",), "'absent.txt' matches no file"),
        (("picture.png",), "cannot tell its format"),
        (("empty.txt",), "holds no text"),
        (("cut.txt.gz",), "damaged or truncated"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    write(tmp_path / "picture.png", "x")
    write(tmp_path / "empty.txt", " \n\n")
    complete = write(tmp_path / "cut.txt.gz", STORY * 1000)
    complete.write_bytes(complete.read_bytes()[:-20])
    with pytest.raises(UserError, match=message):
        texts_of(tmp_path, files=files)


@pytest.mark.parametrize("changes", [{"files": ()}, {"document": "page"}, {"max_tokens": 0}])
def test_mistakes_in_the_section(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"config\.pack"):
        make_config({"pack": {"text": {"files": ("a.txt",)} | changes}})


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 20))
def test_cut_keeps_every_token_and_no_document_spans_two_texts(lengths: list[int], capacity: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    bounds = plain_text.cut(offsets, capacity)
    assert set(offsets.tolist()) <= set(bounds.tolist())
    assert (np.diff(bounds) >= 1).all() and (np.diff(bounds) <= capacity).all()
    assert len(bounds) - 1 == sum(-(-n // capacity) for n in lengths)


def test_text_becomes_a_split_of_its_own(workdir: Path, tmp_path: Path) -> None:
    write(tmp_path / "texts" / "a.txt.gz", STORY * 30)
    write(
        tmp_path / "texts" / "b.jsonl",
        "".join(json.dumps({"text": f"{i} crows met {i * i} foxes"}) + "\n" for i in range(40)),
    )
    before = json.loads((workdir / "rows" / "cpt" / "manifest.json").read_text())
    config = road.config(pack={"text": {"files": ["*"], "root": str(tmp_path / "texts")}})
    jobs.pack(config, workdir)
    manifest = json.loads((workdir / "rows" / "cpt" / "manifest.json").read_text())
    entry = manifest["splits"].pop("text")
    # The behavioural rows are the ones they were.
    assert manifest["splits"] == before["splits"] and manifest["shards"].items() >= before["shards"].items()
    assert entry["texts"] == 41 and entry["bad_lines"] == 0 and entry["fill"] > 0.8
    read = tokenizer.load(workdir / "rows" / "cpt" / "tokenizer")
    source = rows.open_split(workdir / "rows" / "cpt", "text")
    documents = []
    for row in source:
        ends = np.cumsum(row["lengths"])
        documents += [read.decode(row["tokens"][a:b]) for a, b in zip(ends - row["lengths"], ends, strict=True)]
        assert row["loss"][: ends[-1]].all() and not row["loss"][ends[-1] :].any()
    assert f"{tokenizer.END_OF_TEXT}7 crows met 49 foxes" in documents
    # a word may be cut at the end of a row
    assert sum(document.count("wanted") for document in documents) in range(28, 31)
    assert len(source) == entry["rows"] and sum(int(row["lengths"].sum()) for row in source) == entry["tokens"]

    inputs = jobs.made_from(config, workdir, "rows/cpt")
    write(tmp_path / "texts" / "a.txt.gz", STORY)
    assert jobs.made_from(config, workdir, "rows/cpt") != inputs
    jobs.pack(config, workdir)
    of_text = json.loads((workdir / "rows" / "cpt" / "manifest.json").read_text())["splits"]["text"]
    config["pack"]["text"]["max_tokens"] = 200
    jobs.pack(config, workdir)
    limited = json.loads((workdir / "rows" / "cpt" / "manifest.json").read_text())["splits"]["text"]
    assert 100 < limited["tokens"] <= 200 and limited["tokens_left_out"] > 0
    assert limited["texts"] == of_text["texts"] and limited["tokens"] + limited["tokens_left_out"] == of_text["tokens"]
    assert of_text["tokens_left_out"] == 0


def test_a_domain_may_not_be_called_text() -> None:
    corpus: Any = SimpleNamespace(sets={"text": SimpleNamespace(role="pretrain")})  # all that is read of a corpus
    with_text, kind = PackSpec(text=PlainTextSpec(files=("a.txt",))), RowsKind(stage="cpt")
    with pytest.raises(UserError, match="may not be called 'text'"):
        write_splits._sources(corpus, with_text, kind, ["text"])
    assert list(write_splits._sources(corpus, PackSpec(), kind, ["text"])) == ["text"]
