"""The row sources that a mixture asks for: what they hold, and that asking changes nothing else."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.rows import dataset as rows
from cprec_jax.rows.row_sources import Related, Shuffled, Titles, Window, related_length
from cprec_jax.text import tokenizer
from cprec_jax.text.title_features import counts, tf_idf
from tests import road
from tests import run_jobs as jobs

ALL = {"titles": 1.0, "related": 1.0, "shuffled": 1.0}


def asking(weights: dict[str, float], **changes: Any) -> dict[str, Any]:
    return road.config(train={"mixture": {"weights": weights}}, **changes)


def manifest_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "rows/cpt/manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def corpus(tiny_rows: Path) -> Corpus:
    return Corpus.open(tiny_rows / "corpus")


@pytest.fixture(scope="module")
def asked_rows(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpus and rows with all optional sources."""
    workdir = tmp_path_factory.mktemp("asked")
    (workdir / "corpus").symlink_to(tiny_rows / "corpus")
    jobs.pack(asking(ALL), workdir)
    return workdir


def documents_of(workdir: Path, split: str) -> list[tuple[str, int]]:
    """Text and number of targets of every document."""
    encoder = tokenizer.load(workdir / "rows/cpt/tokenizer")
    texts = []
    for stored in rows.open_split(workdir / "rows/cpt", split):
        row = rows.expand(stored)
        for number in range(1, len(stored["lengths"]) + 1):
            held = row["segment_ids"] == number
            texts.append((encoder.decode(row["tokens"][held]), int(row["loss_mask"][held].sum())))
    return texts


def test_unasked_nothing_is_made(tiny_rows: Path) -> None:
    manifest = manifest_of(tiny_rows)
    assert list(manifest["splits"]) == ["Books", "Games", "mixed"] and manifest["source_hashes"] == {}
    assert "the optional row sources" not in manifest["made_from"]["facts"]


def test_what_is_asked_comes_beside_the_others_and_leaves_them_as_they_are(
    tiny_rows: Path, asked_rows: Path, workdir: Path
) -> None:
    before, after = manifest_of(tiny_rows), manifest_of(asked_rows)
    assert list(after["splits"]) == ["Books", "Games", "mixed", "related", "shuffled", "titles"]
    assert after["rows_hash"] == before["rows_hash"] and after["shards"].items() > before["shards"].items()
    assert list(after["source_hashes"]) == ["related", "shuffled", "titles"]
    jobs.pack(asking({"shuffled": 0.1}), workdir)
    assert manifest_of(workdir)["source_hashes"] == {"shuffled": after["source_hashes"]["shuffled"]}


def test_another_seed_makes_others(asked_rows: Path, workdir: Path) -> None:
    jobs.pack(asking(ALL, pack={"seed": 1}), workdir)
    first, second = manifest_of(asked_rows), manifest_of(workdir)
    assert all(first["source_hashes"][name] != second["source_hashes"][name] for name in ALL)
    jobs.pack(asking(ALL), workdir)
    assert manifest_of(workdir)["shards"] == first["shards"]


def test_titles_are_a_document_each_without_a_header(asked_rows: Path, corpus: Corpus) -> None:
    encoder = tokenizer.load(asked_rows / "rows/cpt/tokenizer")
    texts = documents_of(asked_rows, "titles")
    assert sorted(text for text, _ in texts) == sorted(
        f"{tokenizer.END_OF_TEXT}{title}\n" for title in set(corpus.items.title)
    )
    assert all(n == len(encoder.encode(text.removeprefix(tokenizer.END_OF_TEXT))) for text, n in texts)
    assert {corpus.items.title[item] for item in corpus.catalogue("Garden")} <= {
        text[len(tokenizer.END_OF_TEXT) : -1] for text, _ in texts
    }


def test_items_of_one_title_are_one_document_and_are_counted(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = list(corpus.items.title)
    garden = corpus.catalogue("Garden")
    titles[garden[3]] = titles[garden[1]]  # in one catalogue
    titles[garden[5]] = titles[0]  # in two
    items = dataclasses.replace(corpus.items, title=titles)
    changed = Corpus.open(corpus.path)
    monkeypatch.setattr(changed, "items", items)
    source = Titles(changed, window=50)
    numbers = np.concatenate([window.items for window in source.windows()])
    assert source.counts == {"items_of_the_same_title": 2} and len(numbers) == source.total == 178
    assert Related(changed, 0, 1000).counts["items_of_the_same_title"] == 1


def lists_by_scope(windows: list[Window]) -> dict[str, list[np.ndarray]]:
    lists: dict[str, list[np.ndarray]] = {}
    for window in windows:
        assert window.scope is not None
        bounds = zip(window.offsets[:-1], window.offsets[1:], strict=True)
        lists.setdefault(window.scope, []).extend(window.items[a:b] for a, b in bounds)
    return lists


def test_related_lists_are_the_nearest_titles_of_their_own_catalogue(corpus: Corpus) -> None:
    by_scope = lists_by_scope(list(Related(corpus, 0, 100).windows()))
    assert list(by_scope) == ["Books", "Games", "Garden"]
    for name, lists in by_scope.items():
        items = corpus.catalogue(name)
        vectors = tf_idf(counts([corpus.items.title[item] for item in items], "words 1-2")).toarray()
        cosine = np.round(vectors @ vectors.T, 9)
        np.fill_diagonal(cosine, -1)
        number = {item: row for row, item in enumerate(items.tolist())}
        length = related_length(corpus, name)
        assert sorted(number[int(each[0])] for each in lists) == np.flatnonzero((cosine > 0).any(axis=1)).tolist()
        for head, *near in (each.tolist() for each in lists):
            best = np.sort(cosine[number[head]])[::-1][: length - 1]
            np.testing.assert_allclose(cosine[number[head], [number[item] for item in near]], best[best > 0], atol=2e-9)


def test_related_lists_are_as_long_as_the_sequences_of_pre_training(corpus: Corpus) -> None:
    sequences = {name: corpus.sequences("domain", name) for name in ("Books", "Games")}
    for name, each in sequences.items():
        assert related_length(corpus, name) == round(len(each.items) / len(each))
    together = [sum(map(len, parts)) for parts in ((each.items for each in sequences.values()), sequences.values())]
    assert related_length(corpus, "Garden") == round(together[0] / together[1])


def test_related_and_shuffled_have_the_header_of_their_domain(asked_rows: Path, corpus: Corpus) -> None:
    encoder = tokenizer.load(asked_rows / "rows/cpt/tokenizer")
    domain_of = {
        title: corpus.domains[domain] for title, domain in zip(corpus.items.title, corpus.items.domain, strict=True)
    }
    for split, domains in (("related", {"Books", "Games", "Garden"}), ("shuffled", {"Books", "Games"})):
        texts = documents_of(asked_rows, split)
        seen = set()
        for text, n_targets in texts:
            header, *titles = text.removeprefix(tokenizer.END_OF_TEXT).splitlines()
            assert {domain_of[title] + ":" for title in titles} == {header}
            assert n_targets == sum(len(encoder.encode(title + "\n")) for title in titles)
            seen.add(header[:-1])
        assert seen == domains
    assert manifest_of(asked_rows)["splits"]["shuffled"]["items"] == sum(
        manifest_of(asked_rows)["splits"][name]["items"] for name in ("Books", "Games")
    )


def transitions(corpus: Corpus, lists: list[np.ndarray]) -> np.ndarray:
    table = np.zeros((len(corpus.items), len(corpus.items)), np.int64)
    for each in lists:
        np.add.at(table, (each[:-1], each[1:]), 1)
    return table


def test_shuffled_keeps_lengths_and_items_and_destroys_behaviour(corpus: Corpus) -> None:
    source = Shuffled(corpus, 0, 10**6)
    by_scope = lists_by_scope(list(source.windows()))
    assert list(by_scope) == ["Books", "Games"]
    for name, lists in by_scope.items():
        sequences = corpus.sequences("domain", name)
        real = [sequences.items[a:b] for a, b in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)]
        assert [len(each) for each in lists] == [len(each) for each in real]
        np.testing.assert_array_equal(np.sort(np.concatenate(lists)), np.sort(sequences.items))
        # The world has a next-item structure: its most frequent transitions are far more frequent than those of random
        # company.
        before, after = transitions(corpus, real), transitions(corpus, lists)
        assert before.sum() == after.sum() and (before * before).sum() > 1.3 * (after * after).sum()
        top = np.unravel_index(np.argsort(before, axis=None)[-50:], before.shape)
        assert after[top].sum() < 0.5 * before[top].sum()
        # And each user's company is another's.
        kept = [len(set(a.tolist()) & set(b.tolist())) / len(set(a.tolist())) for a, b in zip(real, lists, strict=True)]
        assert np.mean(kept) < 0.4


def test_shuffled_goes_by_seed_and_window(corpus: Corpus) -> None:
    def flat(seed: int, window: int = 10**6) -> np.ndarray:
        return np.concatenate([each.items for each in Shuffled(corpus, seed, window).windows()])

    assert np.array_equal(flat(0), flat(0)) and not np.array_equal(flat(0), flat(1))
    np.testing.assert_array_equal(np.sort(flat(0, window=200)), np.sort(flat(0)))


@pytest.mark.parametrize("name", list(ALL))
def test_their_names_are_taken(name: str, tmp_path: Path) -> None:
    config = road.config()
    config["corpus"]["sources"][0]["name"] = name
    jobs.prepare(config, tmp_path)
    with pytest.raises(
        UserError, match=f"a domain may not be called '{name}'; that is the name of an optional row source"
    ):
        jobs.pack(config, tmp_path)


def test_which_are_asked_makes_rows_out_of_date_and_their_weights_do_not(workdir: Path) -> None:
    def state_of(weights: dict[str, float], **changes: Any) -> tuple[str, str]:
        config = asking(weights, **changes)
        return jobs.state(config, workdir, "rows/cpt").word, jobs.state(config, workdir, "rows/cpt").reason

    assert state_of({"titles": 0.0})[0] == state_of({"Books": 2.0})[0] == "current"
    assert state_of({"titles": 1.0}) == ("out of date", "the optional row sources changed")
    jobs.pack(asking({"titles": 1.0}), workdir)
    assert state_of({"titles": 7.0})[0] == "current"
    config = road.config(train={"anneal_mixture": {"shares": {"titles": 0.2}}})
    assert jobs.state(config, workdir, "rows/cpt").word == "current"
    assert state_of({})[0] == "out of date"


def test_a_run_is_made_from_the_sources_that_it_asks_for_alone(asked_rows: Path, tiny_rows: Path) -> None:
    def rows_of(weights: dict[str, float], workdir: Path) -> dict[str, Any]:
        return jobs.made_from(asking(weights), workdir, "runs/cpt")["inputs"]["rows/cpt"]

    plain = rows_of({}, tiny_rows)
    assert rows_of({}, asked_rows) == plain
    assert rows_of({"titles": 2.0}, asked_rows) == {
        **plain,
        "titles": manifest_of(asked_rows)["source_hashes"]["titles"],
    }


def test_a_run_draws_only_what_it_asks_for(asked_rows: Path, tiny_rows: Path) -> None:
    plain = road.config(train={"steps": None, "epochs": 2.0})
    one, other = (jobs.make_plan(plain, workdir) for workdir in (tiny_rows, asked_rows))
    assert (
        one.shares == other.shares
        and one.total_steps == other.total_steps
        and set(one.shares) == {"Books", "Games", "mixed"}
    )
    assert jobs.make_plan(road.config(train={"mixture": {"shares": {"titles": 0.25}}}), asked_rows).shares[
        "titles"
    ] == pytest.approx(0.25)
    late = jobs.make_plan(road.config(train={"anneal_mixture": {"shares": {"related": 0.5}}}), asked_rows)
    assert "related" not in late.shares and late.anneal_shares["related"] == pytest.approx(0.5)
    with pytest.raises(UserError, match=r"mixture.weights.titles: the rows were made without 'titles'; pack again"):
        jobs.make_plan(asking({"titles": 1.0}), tiny_rows)
    with pytest.raises(
        UserError, match=r"mixture.shares.titles: 0.1 is asked, but the rows hold none of 'titles'; pack again"
    ):
        jobs.make_plan(road.config(train={"mixture": {"shares": {"titles": 0.1}}}), tiny_rows)


def test_a_run_on_the_optional_sources_alone(asked_rows: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").symlink_to(asked_rows / "corpus")
    (tmp_path / "rows").symlink_to(asked_rows / "rows")
    weights = {**ALL, "Books": 0.0, "Games": 0.0, "mixed": 0.0}
    jobs.train(road.config(train={"steps": 2, "mixture": {"weights": weights}, "milestones": []}), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "runs/cpt/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
