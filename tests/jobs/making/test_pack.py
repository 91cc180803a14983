"""Documents, bins and rows: nothing is lost, nothing overlaps."""

import itertools
import json
import os
import tracemalloc
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_jax import corpus
from cprec_jax.config.pack import PackSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.jobs.making import pack as packing
from cprec_jax.rows import dataset as rows
from cprec_jax.rows import packer
from cprec_jax.rows.best_fit import best_fit
from cprec_jax.rows.shards import PieceTable, ShardTask, ShardWriter
from cprec_jax.text import documents, ragged, tokenizer
from cprec_jax.text.catalogue import Catalogue
from tests import road
from tests import run_jobs as jobs


def catalogue_of(lengths: list[int]) -> Catalogue:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Catalogue(tokens=np.arange(100, 100 + offsets[-1], dtype=np.int32), offsets=offsets, unknown_tokens=0)


@given(st.lists(st.integers(1, 64), max_size=300), st.integers(0, 5))
@settings(max_examples=60)
def test_best_fit_places_every_document_within_capacity(lengths: list[int], seed: int) -> None:
    array = np.array(lengths, np.int64)
    row_of, rows = best_fit(array, 64, np.random.default_rng(seed))
    used = np.bincount(row_of, weights=array, minlength=rows) if len(array) else np.zeros(0)
    assert (used <= 64).all() and (used > 0).all() and len(used) == rows
    # Best fit decreasing never leaves two rows that could be one.
    assert rows < 2 or np.sort(used)[:2].sum() > 64


def test_best_fit_fills_real_lengths() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(4, 1, 20_000).astype(np.int64), 8, 2048)
    _, rows = best_fit(lengths, 2048, np.random.default_rng(0))
    assert lengths.sum() / (rows * 2048) > 0.99


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=30), min_size=1, max_size=20),
    st.lists(st.integers(1, 12), min_size=5, max_size=5),
    st.integers(14, 40),
)
@settings(max_examples=60)
def test_documents_hold_every_item_once_in_order(sequences: list[list[int]], lengths: list[int], capacity: int) -> None:
    catalogue = catalogue_of(lengths)
    items = np.array([i for s in sequences for i in s], np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    headers = [np.array([1, 2], np.int32), np.array([3], np.int32)]
    header_of = np.arange(len(sequences)) % 2
    cut = documents.cut(items, offsets, header_of, headers, catalogue, capacity)
    assert (cut.lengths <= capacity).all() and cut.dropped_items == 0
    # Documents come out round by round; each holds its sequence's items from where the one before stopped.
    table, table_offsets = documents.piece_table(catalogue, headers)
    tokens, piece_ends = ragged.gather(table, table_offsets, cut.pieces)
    is_item = np.repeat(cut.pieces < len(catalogue), np.diff(piece_ends))
    assert len(tokens) == cut.lengths.sum()
    np.testing.assert_array_equal(np.sort(tokens[is_item]), np.sort(catalogue.gather(items)[0]))
    ends = np.cumsum(cut.lengths)
    for start, end in zip(ends - cut.lengths, ends, strict=True):
        size = 2 if tokens[start] == 1 else 1
        assert not is_item[start : start + size].any() and is_item[start + size : end].all() and end - start > size


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=8),
    st.lists(st.integers(1, 12), min_size=5, max_size=5),
    st.integers(14, 40),
)
@settings(max_examples=60)
def test_a_document_per_prefix_holds_the_newest_items_that_fit(
    sequences: list[list[int]], lengths: list[int], capacity: int
) -> None:
    catalogue = catalogue_of(lengths)
    items = np.array([i for s in sequences for i in s], np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    headers = [np.array([1, 2], np.int32), np.array([3], np.int32)]
    header_of = np.arange(len(sequences)) % 2
    made = documents.prefixes(items, offsets, header_of, headers, catalogue, capacity)
    expected, dropped = [], 0
    for number, sequence in enumerate(sequences):
        size = len(headers[number % 2])
        for last in range(1, len(sequence)):
            kept = sequence[: last + 1]
            while size + sum(lengths[item] for item in kept) > capacity:
                kept = kept[1:]
            if len(kept) > 1:
                expected.append([len(catalogue) + number % 2, *kept])
            else:
                dropped += 1
    found = [made.pieces[a:b].tolist() for a, b in zip(made.offsets[:-1], made.offsets[1:], strict=True)]
    assert found == expected and made.dropped_items == dropped
    table, table_offsets = documents.piece_table(catalogue, headers)
    assert made.lengths.tolist() == [len(ragged.gather(table, table_offsets, np.array(one))[0]) for one in expected]


def test_an_item_longer_than_a_row_is_counted() -> None:
    catalogue = catalogue_of([5, 50, 5])
    cut = documents.cut(np.array([0, 1, 2]), np.array([0, 3]), np.array([0]), [np.array([9], np.int32)], catalogue, 32)
    assert cut.dropped_items == 1
    assert cut.lengths.tolist() == [6, 6]


def test_no_sequences_make_no_documents() -> None:
    cut = documents.cut(
        np.array([], np.int64), np.array([0]), np.array([], np.int64), [np.array([9], np.int32)], catalogue_of([2]), 32
    )
    assert len(cut) == 0
    assert best_fit(cut.lengths, 32, np.random.default_rng(0))[1] == 0


def test_ragged_gather_equals_slicing() -> None:
    values, offsets = np.arange(10), np.array([0, 3, 3, 7, 10])
    rows = np.array([3, 0, 1, 3])
    flat, out = ragged.gather(values, offsets, rows)
    assert flat.tolist() == [7, 8, 9, 0, 1, 2, 7, 8, 9]
    assert out.tolist() == [0, 3, 6, 6, 9]


@pytest.mark.parametrize("length", [33, 16])
def test_row_length_is_checked(length: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        PackSpec(row_length=length)


def test_window_and_workers_are_checked() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PackSpec(workers=0)
    with pytest.raises(ValueError, match="at least 1"):
        PackSpec(window=0)


def packed(workdir: Path, **changes: Any) -> dict[str, Any]:
    """The manifest of the rows of the tiny corpus, packed anew."""
    jobs.pack(road.config(pack=changes), workdir)
    return json.loads((workdir / "rows" / "cpt" / "manifest.json").read_text(encoding="utf-8"))


def test_rows_are_the_same_files_for_one_and_two_workers(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = packed(workdir, workers=1)
    monkeypatch.setattr(packer, "INTERACTIONS_PER_WORKER", 1)
    monkeypatch.setattr(packer, "ROWS_PER_SHARD", 16)
    split = packed(workdir, workers=1)
    assert packed(workdir, workers=2) == split and len(split["shards"]) > 2 * len(one["shards"])
    assert split["splits"] == one["splits"]
    assert not (workdir / "rows" / "cpt" / "pieces").exists()


def test_packing_again_with_another_tokenizer(workdir: Path, tmp_path: Path) -> None:
    jobs.prepare(road.CONFIG, tmp_path)
    config = road.config(text={"vocab_size": 300})
    jobs.pack(config, tmp_path)
    packed(workdir)
    jobs.pack(config, workdir)  # into the same folder, by the same process
    manifests = [json.loads((directory / "rows/cpt/manifest.json").read_text()) for directory in (workdir, tmp_path)]
    assert manifests[0]["shards"] == manifests[1]["shards"]


def test_a_pool_that_lost_a_worker_takes_no_shard() -> None:
    with pytest.raises(UserError, match="a worker process was killed"), ShardWriter(2) as writer:
        assert writer._pool is not None
        with pytest.raises(BrokenProcessPool):
            writer._pool.submit(os._exit, 1).result()
        writer.submit("s", cast(ShardTask, None))  # nobody gets to look at it


def test_workers_are_no_input(workdir: Path) -> None:
    assert jobs.made_from(road.config(pack={"workers": 3}), workdir, "rows/cpt") == jobs.made_from(
        road.config(), workdir, "rows/cpt"
    )
    assert jobs.made_from(road.config(pack={"window": 3}), workdir, "rows/cpt") != jobs.made_from(
        road.config(), workdir, "rows/cpt"
    )


def test_small_windows_keep_every_document_and_number_the_rows(workdir: Path) -> None:
    whole, cut = packed(workdir), packed(workdir, window=500)
    for name in whole["splits"]:
        assert {key: cut["splits"][name][key] for key in ("documents", "tokens", "items", "items_too_long")} == {
            key: whole["splits"][name][key] for key in ("documents", "tokens", "items", "items_too_long")
        }
        assert cut["splits"][name]["rows"] >= whole["splits"][name]["rows"]
        source = rows.open_split(workdir / "rows" / "cpt", name)
        assert [row["row"] for row in source] == list(range(cut["splits"][name]["rows"]))
        assert sum(int(row["lengths"].sum()) for row in source) == whole["splits"][name]["tokens"]
        assert max(len(row["lengths"]) for row in source) == cut["splits"][name]["most_documents"]


def test_windows_depend_on_the_sequences_alone(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Corpus.open(workdir / "corpus")
    sequences = opened.sequences("domain", "Books")
    found = list(opened.windows("domain", "Books", 200))
    np.testing.assert_array_equal(np.concatenate([items for items, _ in found]), sequences.items)
    np.testing.assert_array_equal(
        np.concatenate([np.diff(offsets) for _, offsets in found]), np.diff(sequences.offsets)
    )
    assert len(found) > 3 and all(offsets[-1] >= 200 > offsets[-2] for _, offsets in found[:-1])
    monkeypatch.setattr(corpus, "RECORDS_A_BATCH", 7)
    again = list(opened.windows("domain", "Books", 200))
    assert all(np.array_equal(a, b) for x, y in zip(found, again, strict=True) for a, b in zip(x, y, strict=True))


def test_memory_is_bounded_by_the_window(tmp_path: Path) -> None:
    catalogue = catalogue_of([10] * 50)
    headers = [np.array([1, 2], np.int32)]
    table = PieceTable.of(*documents.piece_table(catalogue, headers)).save(tmp_path / "pieces")
    rng = np.random.default_rng(0)

    def peak(windows: int) -> int:
        with ShardWriter(1) as writer:
            made = packer.SplitPacker(
                split=f"s{windows}",
                directory=tmp_path,
                row_length=64,
                writer=writer,
                rng=rng,
                n_items=50,
                loss_below=50,
                table=table,
            )
            tracemalloc.start()
            for _ in range(windows):
                items = rng.integers(0, 50, 30_000)
                cut = documents.cut(items, np.arange(0, 30_001, 5), np.zeros(6000, np.int64), headers, catalogue, 64)
                made.add(cut.pieces, cut.offsets, cut.lengths)
            made.finish()
            traced = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert made.n_rows == 6000 * windows and made.n_documents == 6000 * windows
        return traced

    assert peak(12) < 1.5 * peak(3)


def test_rows_for_fine_tuning(workdir: Path) -> None:
    """The downstream set's training sequences, in the same template and with the tokenizer of pre-training."""
    packed(workdir, stages=("cpt", "sft"))
    manifests = {
        stage: json.loads((workdir / "rows" / stage / "manifest.json").read_text()) for stage in ("cpt", "sft")
    }
    assert [list(manifest["splits"]) for manifest in manifests.values()] == [["Books", "Games", "mixed"], ["Garden"]]
    sequences = Corpus.open(workdir / "corpus").sequences("sft", "Garden")
    assert manifests["sft"]["splits"]["Garden"]["items"] == len(sequences.items) > 0
    words = [tokenizer.load(workdir / "rows" / stage / "tokenizer") for stage in ("cpt", "sft")]
    assert words[0].backend.to_str() == words[1].backend.to_str()
    titles = Corpus.open(workdir / "corpus").items.title
    found, targets = [], 0
    named: list[int] = []
    for row in rows.open_split(workdir / "rows" / "sft", "Garden"):
        named += row["items"].tolist()
        ends = np.cumsum(row["lengths"])
        found += [words[0].decode(row["tokens"][a:b]) for a, b in zip(ends - row["lengths"], ends, strict=True)]
        targets += int(row["loss"].sum())
    header = f"{tokenizer.END_OF_TEXT}Garden:\n"
    assert all(text.startswith(header) for text in found)
    lines = [line for text in found for line in text.removeprefix(header).splitlines()]
    assert sorted(lines) == sorted(titles[item] for item in sequences.items)
    assert lines == [titles[item - 1] for item in named if item] and named.count(0) == len(found)
    assert targets == sum(len(words[0].encode(line + "\n")) for line in lines)


SFT: dict[str, Any] = {"stage": "sft", "select": "last", "train": {"steps": 2}}


def pack_for(workdir: Path, runs: dict[str, Any]) -> None:
    jobs.pack(
        {**road.CONFIG, "runs": runs, "export": None, "evaluate": {"names": {"random": {"kind": "random"}}}}, workdir
    )


def test_the_last_item_of_a_prefix_alone_is_a_target(workdir: Path) -> None:
    pack_for(workdir, {"sft": {**SFT, "sft": {"targets": "last"}}})
    sequences = Corpus.open(workdir / "corpus").sequences("sft", "Garden")
    lengths = Catalogue.build(
        tokenizer.load(workdir / "rows/sft-last/tokenizer"), Corpus.open(workdir / "corpus").items.title, "\n"
    ).lengths
    found = []
    for row in rows.open_split(workdir / "rows" / "sft-last", "Garden"):
        ends = np.cumsum(row["lengths"])
        items = np.split(row["items"], np.flatnonzero(row["items"] == 0))[1:]
        for start, end, document in zip(ends - row["lengths"], ends, items, strict=True):
            loss = row["loss"][start:end]
            own = int(lengths[document[-1] - 1])
            assert loss.sum() == own and loss[-own:].all(), "the tokens of the last item, and no others"
            found.append(int(document[-1]) - 1)
    first = np.zeros(len(sequences.items), bool)
    first[sequences.offsets[:-1]] = True
    assert sorted(found) == sorted(sequences.items[~first].tolist()), (
        "every item but the first of a sequence is a target once"
    )


def test_a_share_of_the_users_is_part_of_a_larger_share(workdir: Path) -> None:
    shares = (0.1, 0.5, 1.0)
    pack_for(workdir, {f"sft-{number}": {**SFT, "sft": {"users": share}} for number, share in enumerate(shares)})
    corpus = Corpus.open(workdir / "corpus")
    n = corpus.n_sequences("sft", "Garden")
    found = []
    for share in shares:
        name = "sft" if share == 1 else f"sft-{share}"
        documents = [
            tuple(d.tolist()) for row in rows.open_split(workdir / "rows" / name, "Garden") for d in split_items(row)
        ]
        found.append(documents)
        assert json.loads((workdir / "rows" / name / "manifest.json").read_text())["splits"]["Garden"]["items"] == sum(
            map(len, documents)
        )
    assert [len(documents) for documents in found[:1]] <= [n // 2]
    for smaller, larger in itertools.pairwise(found):
        assert 0 < len(smaller) < len(larger) and not Counter(smaller) - Counter(larger)


def split_items(row: Any) -> list[np.ndarray]:
    """The items of each document of a stored row."""
    return [document[1:] for document in np.split(row["items"], np.flatnonzero(row["items"] == 0))[1:]]


def test_a_corpus_of_one_set_trains_its_tokenizer_on_that(tmp_path: Path) -> None:
    config = road.config()
    config["corpus"]["sources"] = [{**config["corpus"]["sources"][0], "role": "downstream"}]
    config |= {"runs": {"sft": SFT}, "export": None, "evaluate": {"names": {"random": {"kind": "random"}}}}
    jobs.prepare(config, tmp_path)
    jobs.pack(config, tmp_path)
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["sft"]
    title = Corpus.open(tmp_path / "corpus").items.title[0]
    assert len(tokenizer.load(tmp_path / "rows/sft/tokenizer").encode(title)) < len(title) / 2


def test_fine_tuning_on_a_domain_of_pre_training_reads_its_sequences(workdir: Path) -> None:
    pack_for(workdir, {"cpt": {"train": {"steps": 2}}, "sft": {**SFT, "sets": ("Books", "Garden")}})
    manifest = json.loads((workdir / "rows/sft/manifest.json").read_text())
    assert (
        set(manifest["splits"])
        == {"Books", "Garden"}
        == set(manifest["source_hashes"])
        == set(manifest["catalogue_hashes"])
    )
    assert manifest["splits"]["Books"]["items"] == len(
        Corpus.open(workdir / "corpus").sequences("domain", "Books").items
    )
    words = [(workdir / "rows" / name / "tokenizer/tokenizer.json").read_text() for name in ("cpt", "sft")]
    assert words[0] == words[1]


def test_rows_for_fine_tuning_need_their_tokenizer_and_a_set(tmp_path: Path) -> None:
    jobs.prepare(road.CONFIG, tmp_path)
    with pytest.raises(
        UserError, match=r"stages \('sft', 'cpt'\): give 'cpt', 'sft' or both, each once and in this order"
    ):
        packed(tmp_path, stages=("sft", "cpt"))


def test_without_a_downstream_set_there_are_no_rows_for_fine_tuning(tmp_path: Path) -> None:
    config = road.config(pack={"stages": ("cpt", "sft")})
    config["corpus"]["sources"] = config["corpus"]["sources"][:2]
    jobs.prepare(config, tmp_path)
    with pytest.raises(UserError, match=r"config.pack.stages: 'sft' packs downstream sets, and the corpus has none"):
        jobs.pack(config, tmp_path)
    assert (tmp_path / "rows" / "cpt").exists() and not (tmp_path / "rows" / "sft").exists()


def test_what_the_tokenizer_loses_is_said_and_recorded_and_reported(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A vocabulary of letters without the first one of the first title."""
    from cprec_jax.report.report import _tokenizer_notes

    titles = Corpus.open(workdir / "corpus").items.title
    letters = sorted({c for title in titles for c in title} - {titles[0][0]} | {"\n"})
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({c: i for i, c in enumerate(["?", *letters])}, [], unk_token="?")
    )
    (workdir / "lossy").mkdir()
    backend.save(str(workdir / "lossy/tokenizer.json"))
    jobs.pack(road.config(text={"tokenizer": str(workdir / "lossy")}), workdir)
    manifest = json.loads((workdir / "rows/cpt/manifest.json").read_text())
    assert manifest["unknown_tokens"] > 0 and "are the unknown token" in manifest["tokenizer_losses"]
    assert manifest["tokenizer_losses"] in capsys.readouterr().err
    assert _tokenizer_notes(workdir) == [
        f"rows of cpt: the tokenizer loses parts of titles: {manifest['tokenizer_losses']}"
    ]


def test_titles_of_nothing_but_unknown_tokens_are_said_with_their_share(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A vocabulary without the letters of one title, which is replaced by words of two letters that nothing else
    needs."""
    table = Corpus.open(workdir / "corpus").items
    letters = sorted({c for title in table.title for c in title} - {"z", "j"} | {"\n"})
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({c: i for i, c in enumerate(["?", *letters])}, [], unk_token="?")
    )
    (workdir / "lossy").mkdir()
    backend.save(str(workdir / "lossy/tokenizer.json"))
    tokens = tokenizer.load(workdir / "lossy")
    catalogue = Catalogue.build(tokens, ["zj zz", *table.title], "\n")
    assert packing.tokenizer_losses(catalogue, np.arange(len(catalogue)), tokens, "\n").startswith(
        f"{1 / len(catalogue):.2%} of the titles (1) are nothing but the unknown token, "
    )
