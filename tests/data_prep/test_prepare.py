"""The whole job against plain Python references."""

import hashlib
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from cprec_jax.artefact import HOST
from cprec_jax.corpus import Corpus, hash60, user_key
from cprec_jax.errors import UserError
from tests.data_prep.tables import Interaction, corpus_of, numbered_titles, random_interactions, records, table_source
from tests.run_jobs import prepare, state


def ordered(
    interactions: list[Interaction], name: str, platform: str = "default", seed: int = 0
) -> dict[str, list[tuple[str, int]]]:
    """user -> [(item, time)]: exact duplicates once, ties by the seeded hash, consecutive repeats once."""
    by_user = defaultdict(set)
    for user, item, time in interactions:
        tie = hash60(f"{seed}:{platform}\x1f{user}\x1f{name}\x1f{item}")
        by_user[user].add((time, tie, item))
    result = {}
    for user, events in by_user.items():
        row = [(item, time) for time, _, item in sorted(events)]
        result[user] = [event for n, event in enumerate(row) if n == 0 or row[n - 1][0] != event[0]]
    return result


def naive_k_core(pairs: list[tuple[str, str]], k: int) -> list[tuple[str, str]]:
    while True:
        users, items = Counter(user for user, _ in pairs), Counter(item for _, item in pairs)
        kept = [(user, item) for user, item in pairs if users[user] >= k and items[item] >= k]
        if len(kept) == len(pairs):
            return kept
        pairs = kept


def named(corpus: Corpus, rows: dict[int, list[int]]) -> dict[int, list[str]]:
    return {user: [corpus.item_ids[item] for item in items] for user, items in rows.items()}


def test_time_split_against_a_plain_reference(tmp_path: Path):
    interactions = random_interactions(seed=1, span=100)
    source = table_source(tmp_path / "raw", interactions, numbered_titles())
    corpus = corpus_of(tmp_path, {"books": source}, k_core=0, times={"default": {"t1": 70, "t2": 85}})
    expected = ordered(interactions, "books")
    training = {user_key("default", user): [item for item, time in row if time < 70] for user, row in expected.items()}
    assert named(corpus, records(corpus.sequences("domain", "books"))) == {
        user: row for user, row in training.items() if row
    }
    for split, low, high in (("valid", 70, 85), ("test", 85, 100)):
        targets = corpus.targets(split, "books")
        wanted = {}
        for user, row in expected.items():
            position = next((n for n, (_, time) in enumerate(row) if low <= time < high), 0)
            if position:
                untied = sum(time == row[position][1] for _, time in row) == 1
                wanted[user_key("default", user)] = ([item for item, _ in row[:position]], *row[position], untied)
        histories = named(corpus, records(targets))
        targets_of = {
            int(user): (histories[int(user)], corpus.item_ids[item], int(time), bool(untied))
            for user, item, time, untied in zip(
                targets.user, targets.target, targets.target_time, targets.untied, strict=True
            )
        }
        assert targets_of == wanted
        assert not all(untied for *_, untied in wanted.values())
    counts = Counter(item for row in training.values() for item in row)
    assert dict(zip(corpus.item_ids, corpus.items.train_count.tolist(), strict=True)) == {
        i: counts[i] for i in numbered_titles()
    }


def test_leave_one_out_against_a_plain_reference(tmp_path: Path):
    interactions = random_interactions(seed=2, users=300, n=900, span=12)
    corpus = corpus_of(
        tmp_path,
        {"books": table_source(tmp_path / "raw", interactions, numbered_titles(), "downstream", "position")},
        k_core=0,
    )
    assert corpus.set_info("books").split == "leave_one_out"
    rows = {
        user_key("default", user): [item for item, _ in row] for user, row in ordered(interactions, "books").items()
    }
    assert min(map(len, rows.values())) < 3
    assert named(corpus, records(corpus.sequences("sft", "books"))) == {
        user: row[:-2] if len(row) > 2 else row for user, row in rows.items()
    }
    assert named(corpus, records(corpus.targets("test", "books"))) == {
        user: row[:-1] for user, row in rows.items() if len(row) > 2
    }
    assert named(corpus, records(corpus.targets("valid", "books"))) == {
        user: row[:-2] for user, row in rows.items() if len(row) > 2
    }
    assert corpus.manifest["sets"]["books"]["n_users_with_one_interaction"] == sum(
        len(row) == 1 for row in rows.values()
    )


@pytest.mark.parametrize("k", [2, 3, 4])
def test_k_core_against_a_plain_reference(tmp_path: Path, k):
    interactions = random_interactions(seed=3, users=120, items=60)
    source = table_source(tmp_path / "raw", interactions, numbered_titles(60))
    corpus = corpus_of(tmp_path, {"books": source}, k_core=k, times={"default": {"t1": 700, "t2": 850}})
    pairs = [(user, item) for user, row in ordered(interactions, "books").items() for item, time in row if time < 700]
    kept = naive_k_core(pairs, k)
    sequences = named(corpus, records(corpus.sequences("domain", "books")))
    assert Counter((user, item) for user, row in sequences.items() for item in row) == Counter(
        (user_key("default", u), i) for u, i in kept
    )
    assert 0 < len(kept) < len(pairs)
    assert len(corpus.items) == 60
    assert corpus.items.train_count.sum() == len(pairs)


def two_domains(folder: Path, seed: int = 4) -> dict[str, dict]:
    return {
        "books": table_source(folder / "books", random_interactions(seed), numbered_titles()),
        "films": table_source(folder / "films", random_interactions(seed + 1), numbered_titles()),
        "songs": table_source(folder / "songs", random_interactions(seed + 2), numbered_titles(), "downstream"),
    }


def test_no_training_sequence_sees_the_future(tmp_path: Path):
    """Future interactions planted in every domain never reach pre-training or fine-tuning, and change nothing there."""
    plain = corpus_of(tmp_path / "plain", two_domains(tmp_path / "plain"), times={"default": {"t1": 700, "t2": 850}})
    sources = two_domains(tmp_path / "planted")
    for source in sources.values():
        with open(source["interactions"], "a", encoding="utf-8") as stream:
            stream.writelines(f"u{user}\ti{user % 25}\t{700 + user}\n" for user in range(60))
    planted = corpus_of(tmp_path / "planted", sources, times={"default": {"t1": 700, "t2": 850}})
    for split, name in (("domain", "books"), ("domain", "films"), ("mixed", "all"), ("sft", "songs")):
        sequences = planted.sequences(split, name)
        assert len(sequences) > 10 and sequences.times.max() < 700
        assert records(sequences) == records(plain.sequences(split, name))
    assert planted.hash != plain.hash


def test_mixed_sequences_merge_domains_by_time(tmp_path: Path):
    corpus = corpus_of(tmp_path, two_domains(tmp_path), k_core=0)
    mixed = corpus.sequences("mixed")
    books, films = corpus.sequences("domain", "books"), corpus.sequences("domain", "films")
    assert set(mixed.user) == set(books.user) & set(films.user)
    assert set(mixed.domain) == {-1} and set(mixed.item_domains) == {0, 1}
    for n, user in enumerate(mixed.user[:20]):
        span = slice(mixed.offsets[n], mixed.offsets[n + 1])
        assert np.all(np.diff(mixed.times[span]) >= 0)
        for domain, sequences in ((0, books), (1, films)):
            assert mixed.items[span][mixed.item_domains[span] == domain].tolist() == records(sequences)[int(user)]
    seen = corpus.targets("test", "songs").seen
    known = set(books.user) | set(films.user)
    assert seen.tolist() == [user in known for user in corpus.targets("test", "songs").user]


def test_users_are_shared_within_a_platform_only(tmp_path: Path):
    sources = two_domains(tmp_path)
    sources["films"]["platform"] = "elsewhere"
    corpus = corpus_of(tmp_path, sources, k_core=0)
    assert len(corpus.sequences("mixed")) == 0
    assert set(corpus.manifest["times"]) == {"default", "elsewhere"}


def test_quantiles_come_from_the_downstream_sets_of_the_platform(tmp_path: Path):
    corpus = corpus_of(tmp_path, two_domains(tmp_path))
    times = sorted(time for row in ordered(random_interactions(6), "songs").values() for _, time in row)
    assert corpus.manifest["times"]["default"] == {
        "t1": times[int(0.8 * len(times))],
        "t2": times[int(0.9 * len(times))],
    }


def test_same_hash_twice_and_for_any_order_of_rows_and_memory(tmp_path: Path):
    first = corpus_of(tmp_path / "a", two_domains(tmp_path / "a"))
    sources = two_domains(tmp_path / "b")
    for source in sources.values():
        for which in ("interactions", "items"):
            header, *rows = Path(source[which]).read_text().splitlines()
            random.Random(0).shuffle(rows)
            Path(source[which]).write_text("\n".join([header, *rows]) + "\n")
    second = corpus_of(tmp_path / "b", sources, threads=1, memory_limit="200MB")
    assert first.hash == second.hash
    assert corpus_of(tmp_path / "a", two_domains(tmp_path / "a"), seed=1).hash != first.hash


def test_test_users_are_a_nested_choice(tmp_path: Path):
    every = corpus_of(tmp_path / "every", two_domains(tmp_path)).targets("test", "songs").user
    few = corpus_of(tmp_path / "few", two_domains(tmp_path), max_test_users=5, max_valid_users=0)
    more = corpus_of(tmp_path / "more", two_domains(tmp_path), max_test_users=12).targets("test", "songs").user
    assert len(few.targets("test", "songs")) == 5 and len(few.targets("valid", "songs")) == 0
    assert set(few.targets("test", "songs").user) < set(more) < set(every)
    assert few.manifest["sets"]["songs"]["n_test_users_available"] == len(every)
    assert few.set_info("songs").too_small


def test_test_users_can_be_kept_out_of_pre_training(tmp_path: Path):
    corpus = corpus_of(tmp_path, two_domains(tmp_path), exclude_test_users=True, k_core=0)
    targets = corpus.targets("test", "songs")
    for split, name in (("domain", "books"), ("mixed", "all")):
        assert not set(corpus.sequences(split, name).user) & set(targets.user)
    assert not targets.seen.any()
    assert len(corpus.sequences("sft", "songs")) > 0


ODD = {
    "i0": "Same &amp; title",
    "i1": "Same & title",
    "i2": "  ",
    "i3": "Tab\u00a0and 😀",
    "i4": "long " * 400,
    "i5": "Plain",
}
ODD_INTERACTIONS = [
    *[("u1", f"i{item}", time) for time, item in enumerate([3, 0, 1, 4, 2, 5, 3, 9])],
    ("u1", "i3", 0),
    ("u2", "i5", 3),
]


@pytest.mark.parametrize("policy", ["merge", "distinguish"])
def test_odd_titles_duplicates_and_unknown_items_are_counted(tmp_path: Path, policy):
    source = table_source(tmp_path / "raw", ODD_INTERACTIONS, ODD, order="timestamp", split="leave_one_out")
    corpus = corpus_of(tmp_path, {"shop": source}, k_core=0, titles={"policy": policy, "max_length": 300})
    titles = dict(zip(corpus.item_ids, corpus.items.title, strict=True))
    merged = policy == "merge"
    assert titles == {
        "i0": "Same & title" + "" * merged + " [i0]" * (not merged),
        **({} if merged else {"i1": "Same & title [i1]"}),
        "i3": "Tab and 😀",
        "i4": ("long " * 60).strip(),
        "i5": "Plain",
    }
    rejected = {reason: entry["n"] for reason, entry in corpus.manifest["rejected"].items()}
    assert rejected == {
        "item without a usable title": 1,
        "interaction with an item that has no usable title": 1,
        "interaction with an unknown item": 1,
    }
    assert corpus.manifest["rejected"]["interaction with an unknown item"]["samples"] == ["shop u1 i9"]
    steps = {step: numbers["interactions"] for step, numbers in corpus.manifest["counts"]["shop"].items()}
    assert (steps["read"], steps["with a known title"], steps["without exact duplicates"]) == (10, 8, 7)
    assert steps["without consecutive repeats"] == (6 if merged else 7)
    assert corpus.manifest["titles"]["items sharing another's title"] == 1
    assert corpus.manifest["titles"]["cut"] == 1
    assert corpus.manifest["titles"]["appended"] == ({} if merged else {"item_id": 2})
    assert corpus.manifest["sets"]["shop"]["n_users_with_one_interaction"] == 1


LONG = {
    "i1": "a long title of many words",
    "i2": "a long title of many words",
    "i33": "a long title of many words",
    "i4": "another of 26 characters..",
}


def test_titles_are_cut_for_the_item_id_that_is_appended(tmp_path: Path):
    source = table_source(
        tmp_path / "raw", [("u", item, time) for time, item in enumerate(LONG)], LONG, split="leave_one_out"
    )
    corpus = corpus_of(tmp_path, {"shop": source}, k_core=0, titles={"policy": "distinguish", "max_length": 26})
    assert dict(zip(corpus.item_ids, corpus.items.title, strict=True)) == {
        "i1": "a long title of many [i1]",  # "many " without its space
        "i2": "a long title of many [i2]",
        "i33": "a long title of many [i33]",
        "i4": LONG["i4"],
    }
    assert corpus.manifest["titles"]["cut for the item id"] == 3 and corpus.manifest["titles"]["cut"] == 0
    assert corpus.manifest["titles"]["appended"] == {"item_id": 3}
    with pytest.raises(
        UserError, match=r"config.corpus.titles.max_length: 5 has no room for a title and the item id 'i"
    ):
        corpus_of(tmp_path, {"shop": source}, k_core=0, titles={"policy": "distinguish", "max_length": 5})


def test_item_listed_twice_keeps_one_title_whatever_the_order(tmp_path: Path):
    hashes = set()
    for order in (1, -1):
        source = table_source(tmp_path / "raw", random_interactions(0), numbered_titles())
        rows = [*Path(source["items"]).read_text().splitlines()[1:], "i3\tAnother 3", "i3\tTitle 3"]
        Path(source["items"]).write_text("\n".join(["item_id\ttitle", *rows[::order]]) + "\n")
        corpus = corpus_of(tmp_path, {"books": source})
        hashes.add(corpus.hash)
        assert corpus.manifest["rejected"]["item listed more than once"] == {
            "n": 1,
            "samples": ["books i3 (3 times, 2 titles; one kept)"],
        }
    assert len(hashes) == 1


def test_nothing_left_is_an_error(tmp_path: Path):
    source = table_source(tmp_path / "raw", [("u", "x", 1)], {"y": "Why"})
    with pytest.raises(
        UserError, match=r"no interaction is left after cleaning; .*interaction with an unknown item \(1\)"
    ):
        corpus_of(tmp_path, {"books": source})
    assert not (tmp_path / "corpus").exists()


def test_neither_training_nor_targets_is_an_error(tmp_path: Path):
    message = (
        r"^config.corpus: neither a training interaction nor a target is left; check times .*films \(t1 = -5, t2 = 0, "
        r"its [^\n]*$"
    )
    with pytest.raises(UserError, match=message):
        corpus_of(tmp_path, two_domains(tmp_path), times={"default": {"t1": -5, "t2": 0}})
    assert not (tmp_path / "corpus").exists()


def test_sets_without_training_or_test_users_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sources = two_domains(tmp_path)
    corpus_of(tmp_path, sources, k_core=0, times={"default": {"t1": 5000, "t2": 5001}})
    console = capsys.readouterr().err
    for name in sources:
        assert f"{name}: no test users (t1 = 5000, t2 = 5001, its interactions are of" in console
    sources["films"]["k_core"] = 500
    sources["films"]["split"] = "leave_one_out"
    corpus_of(tmp_path, sources, k_core=0)
    console = capsys.readouterr().err
    assert (
        "films: no training interactions (split leave_one_out)" in console
        and "no test users" not in console
        and "books: no" not in console
    )


def test_a_failed_run_leaves_the_corpus_before_it_whole(tmp_path: Path):
    sources = two_domains(tmp_path)
    before = corpus_of(tmp_path, sources).hash
    (tmp_path / f".corpus.{HOST}.999999999.tmp" / "scratch").mkdir(parents=True)
    Path(sources["songs"]["interactions"]).write_text("user_id\titem_id\ttimestamp\n")
    with pytest.raises(UserError, match="no readable rows"):
        corpus_of(tmp_path, sources)
    assert Corpus.open(tmp_path / "corpus").hash == before
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["books", "corpus", "films", "songs"] and not list(
        tmp_path.glob("*.tmp")
    )
    assert not (tmp_path / "corpus" / "scratch").exists()


def test_inputs_follow_content_not_place(tmp_path: Path):
    config = {"corpus": {"sources": two_domains(tmp_path / "here")}}
    prepare(config, tmp_path)
    assert state(config, tmp_path, "corpus").word == "current"
    moved = {"corpus": {"sources": two_domains(tmp_path / "there")}}
    assert state(moved, tmp_path, "corpus").word == "current"
    with open(config["corpus"]["sources"]["books"]["interactions"], "a") as stream:
        stream.write("u1\ti1\t1\n")
    corpus_state = state(config, tmp_path, "corpus")
    assert corpus_state.word == "out of date" and corpus_state.reason.startswith("books.interactions changed: ")


def test_unknown_adapter_names_the_nearest(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"config.corpus.sources.a.adapter: unknown adapter 'synthetik'; did you mean 'synthetic'"
    ):
        corpus_of(tmp_path, {"a": {"role": "pretrain", "adapter": "synthetik"}})


def test_manifest_names_sources_with_their_hashes(tmp_path: Path):
    corpus = corpus_of(tmp_path, two_domains(tmp_path))
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    entry = manifest["sources"]["songs"]
    assert (entry["role"], entry["order"], entry["rows"]) == (
        "downstream",
        "timestamp",
        {"interactions": 900, "items": 25},
    )
    content = (tmp_path / "songs" / "inter.tsv").read_bytes()
    assert entry["files"]["interactions"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert corpus.domains == ["books", "films", "songs"]


def test_order_only_domains_stay_out_of_the_mix(tmp_path: Path):
    sources = two_domains(tmp_path)
    sources["films"] = table_source(tmp_path / "films", random_interactions(5), numbered_titles(), time="position")
    corpus = corpus_of(tmp_path, sources, k_core=0)
    assert corpus.manifest["mixed"] == {"users": 0, "interactions": 0, "left out (order only)": ["films"]}
    assert len(corpus.sequences("domain", "films")) > 0


def test_real_files(shared_data: Path, tmp_path: Path):
    """MovieLens-1M by leave-one-out: every user is tested, and merged titles account for every lost item."""
    folder = shared_data / "ml1m"
    source = {
        "role": "downstream",
        "interactions": str(folder / "inter.tsv.gz"),
        "items": str(folder / "item.tsv.gz"),
        "platform": "movielens",
    }
    corpus = corpus_of(tmp_path, {"ml1m": source}, split="leave_one_out", max_test_users=1000)
    info = corpus.manifest["sets"]["ml1m"]
    assert info["n_test_users_available"] == 6040 and info["n_test_users"] == 1000
    assert (
        info["n_items"] + corpus.manifest["titles"]["items sharing another's title"]
        == corpus.manifest["sources"]["ml1m"]["rows"]["items"]
    )


def test_ties_in_the_order_of_the_file(tmp_path: Path):
    items = [f"i{i}" for i in range(25)]
    random.Random(3).shuffle(items)
    # an exact duplicate, too
    interactions = [(user, item, 7) for user in ("ann", "bob") for item in items] + [("ann", items[4], 7)]
    source = table_source(tmp_path / "raw", interactions, numbered_titles())
    by_file = corpus_of(tmp_path / "file", {"books": source}, k_core=0, split="leave_one_out", ties="file")
    by_hash = corpus_of(tmp_path / "hash", {"books": source}, k_core=0, split="leave_one_out")
    for corpus, order in ((by_file, {"ann": items, "bob": items}), (by_hash, ordered(interactions, "books"))):
        targets = corpus.targets("test", "books")
        expected = {
            user_key("default", user): [row if isinstance(row, str) else row[0] for row in rows]
            for user, rows in order.items()
        }
        assert named(corpus, records(targets)) == {user: row[:-1] for user, row in expected.items()}
        ids = [corpus.item_ids[item] for item in targets.target]
        assert dict(zip(targets.user.tolist(), ids, strict=True)) == {user: row[-1] for user, row in expected.items()}
