"""Scores of another system: ranked as they are, and refused where they would rank anybody by chance."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_jax.corpus import Corpus, user_key
from cprec_jax.errors import UserError
from cprec_jax.evaluate.eval_set import EvalSet, open_set
from cprec_jax.methods.score_file import ScoreFile
from data_prep.adapters.synthetic import _user_names
from tests import run_jobs as jobs
from tests.run_jobs import prepare


@pytest.fixture(scope="module")
def corpus(tiny_rows: Path) -> Corpus:
    return Corpus.open(tiny_rows / "corpus")


@pytest.fixture(scope="module")
def books(corpus: Corpus) -> EvalSet:
    return open_set(corpus, "Books", "test", ("full",), True, None, 0)


def write_scores(path: Path, corpus: Corpus, change: Mapping[str, Any] | None = None) -> np.ndarray:
    """A file of random scores of every user of Books for 50 of its 60 items; the scores, float64[users * 50]."""
    targets, items = corpus.targets("test", "Books"), corpus.catalogue("Books")[:50]
    user, item = np.repeat(targets.user, 50), np.tile(items, len(targets))
    score = np.random.default_rng(0).normal(size=len(user))
    columns: dict[str, Any] = {"user": user, "item": item, "score": score} | dict(change or {})
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return score


def test_scores_of_another_system(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score = write_scores(tmp_path / "scores.csv", corpus)
    (tmp_path / "corpus").symlink_to(corpus.path)
    names = {"theirs": {"kind": "scores", "path": str(tmp_path / "scores.csv")}}
    settings = {"sets": ("Books",), "protocols": ("full",), "mask_history": "never", "bootstrap": 20}
    jobs.evaluate({"evaluate": {"names": names, **settings}}, tmp_path)
    result = json.loads((tmp_path / "results" / "theirs" / "results.json").read_text())
    ranks = pq.read_table(tmp_path / "results" / "theirs" / "ranks.parquet")
    targets = corpus.targets("test", "Books")
    table = score.reshape(len(targets), 50)
    target = targets.target - corpus.catalogue("Books")[0]
    for user in range(len(targets)):
        expected = (table[user] > table[user, target[user]]).sum() if target[user] < 50 else 50
        assert ranks["n_better"][user].as_py() == expected
        assert ranks["n_tied"][user].as_py() == (0 if target[user] < 50 else 9)
    assert result["sets"]["Books"]["pairs_without_score"] == 10 * len(targets)
    assert (
        f"has no score for {10 * len(targets):,} of {60 * len(targets):,} pairs of user and item"
        in capsys.readouterr().err
    )
    assert "nll" not in result["sets"]["Books"]["protocols"]["full"] and ranks["nll"].null_count == len(ranks)


def test_missing_pairs_are_below_the_lowest_score_however_large_it_is(
    corpus: Corpus, books: EvalSet, tmp_path: Path
) -> None:
    write_scores(tmp_path / "s.csv", corpus, {"score": [-1e17] * (50 * len(books))})
    (scored,) = ScoreFile(tmp_path / "s.csv", corpus).score(books)
    assert (
        scored.scores is not None and (scored.scores[:, :50] == -1e17).all() and (scored.scores[:, 50:] < -1e17).all()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": [float("nan")]}, "row 1: score is empty or NaN"),
        (
            {"user": [5]},
            r"no score for 115 of 115 test users of set Books, such as .* user \d+; the file has user "
            r"5\..*config.evaluate.sets",
        ),
        ({"item": ["B00x"]}, "must be the corpus's numbers"),
        ({"score": [float("inf")]}, "row 1: score inf"),
    ],
)
def test_bad_scores_are_refused(
    corpus: Corpus, books: EvalSet, tmp_path: Path, change: dict[str, list], message: str
) -> None:
    n = len(books) * 50
    write_scores(
        tmp_path / "s.csv",
        corpus,
        {key: value * n for key, value in change.items()} | ({"item": range(n)} if "user" in change else {}),
    )
    with pytest.raises(UserError, match=message):
        list(ScoreFile(tmp_path / "s.csv", corpus).score(books))


def test_rows_of_other_users_are_counted(
    corpus: Corpus, books: EvalSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scores(tmp_path / "s.csv", corpus)
    with open(tmp_path / "s.csv", "a") as file:
        file.writelines(f"123,{item},0.5\n" for item in books.items[:7])
    method = ScoreFile(tmp_path / "s.csv", corpus)
    list(method.score(books))
    assert method.facts()["rows_of_other_users"] == 7
    assert "Books: " in (told := capsys.readouterr().err) and "7 rows are of users that are not evaluated here" in told


def test_the_ending_says_what_a_file_is(corpus: Corpus, tmp_path: Path) -> None:
    write_scores(tmp_path / "s.json", corpus)
    with pytest.raises(UserError, match=r"s.json: the ending says what a file of scores is: .parquet, .csv"):
        ScoreFile(tmp_path / "s.json", corpus)


def test_items_of_another_numbering_are_refused(corpus: Corpus, books: EvalSet, tmp_path: Path) -> None:
    """Nobody would have a score for anything, and every user a rank by chance."""
    write_scores(tmp_path / "s.csv", corpus, {"item": np.tile(np.arange(50) + 10_000, len(books))})
    message = (
        rf"user {books.targets.user[0]} has scores, but for no item of set Books; .*{books.items[0]} to "
        rf"{books.items[-1]}"
    )
    with pytest.raises(UserError, match=message):
        list(ScoreFile(tmp_path / "s.csv", corpus).score(books))


@pytest.mark.parametrize("column", ["user", "item", "score"])
def test_empty_cells_are_refused(corpus: Corpus, tmp_path: Path, column: str) -> None:
    """Arrow would make floats of numbers beside a null, and two users of large numbers the same."""
    values: dict[str, list[Any]] = {"user": [2**60, 2**60 + 1], "item": [1, 2], "score": [0.5, 0.6]}
    values[column][1] = None
    pq.write_table(pa.table(values), tmp_path / "s.parquet")
    with pytest.raises(UserError, match=f"row 2: {column} is empty or NaN; leave such rows out"):
        ScoreFile(tmp_path / "s.parquet", corpus)


def test_a_file_without_scores_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("user,item\n1,2\n")
    with pytest.raises(UserError, match="no column 'score'"):
        ScoreFile(tmp_path / "s.csv", corpus)
    (tmp_path / "s.csv").write_text("user,item,score,item\n1,2,.5,2\n")
    with pytest.raises(UserError, match="two columns 'item'"):
        ScoreFile(tmp_path / "s.csv", corpus)
    (tmp_path / "t.csv").write_text("user,item,score\n1,2,.5\n1,2,.6\n")
    with pytest.raises(UserError, match="user 1 has two scores for item 2"):
        ScoreFile(tmp_path / "t.csv", corpus)
    with pytest.raises(UserError, match="no such file of scores"):
        ScoreFile(tmp_path / "none.csv", corpus)


def candidate_scores(path: Path, corpus: Corpus, protocols: tuple[str, ...], leave_out: int = 0) -> EvalSet:
    """Random scores of the candidates of `protocols` alone, for every user of Books but one candidate of `leave_out`
    users."""
    data = open_set(corpus, "Books", "test", protocols, True, None, 0)
    random = np.random.default_rng(0)
    lines = ["user,item,score"]
    for row, user in enumerate(data.targets.user):
        columns = np.unique(np.concatenate([data.candidates[name][row] for name in protocols]))
        if row < leave_out:
            columns = columns[
                columns != data.candidates[protocols[0]][row][data.candidates[protocols[0]][row] != data.target[row]][0]
            ]
        lines += [f"{user},{data.items[column]},{random.normal()}" for column in columns]
    path.write_text("\n".join(lines) + "\n")
    return data


def test_scores_of_candidates_alone_are_ranked_by_their_protocol_alone(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `full` the target would beat whatever has no score: random scores would have HR@10 .5 of 60 items."""
    candidate_scores(tmp_path / "s.csv", corpus, ("u20",))
    (tmp_path / "corpus").symlink_to(corpus.path)
    names = {"theirs": {"kind": "scores", "path": str(tmp_path / "s.csv")}}
    jobs.evaluate(
        {"evaluate": {"names": names, "sets": ("Books",), "protocols": ("full", "u20"), "bootstrap": 20}}, tmp_path
    )
    found = json.loads((tmp_path / "results" / "theirs" / "results.json").read_text())["sets"]["Books"]
    assert list(found["protocols"]) == ["u20"] and found["scored_candidates_of"] == ["u20"] and found["slices"] == {}
    assert 0.35 < found["protocols"]["u20"]["hr@10"] < 0.65
    assert "scores the candidates of u20 alone" in capsys.readouterr().err


def test_few_items_that_hold_every_target_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    data = candidate_scores(tmp_path / "s.csv", corpus, ("u20",), leave_out=3)
    with pytest.raises(UserError, match="candidates of u20 alone, but for no protocol of them all"):
        list(ScoreFile(tmp_path / "s.csv", corpus).score(data))
    full = open_set(corpus, "Books", "test", ("full",), True, None, 0)
    with pytest.raises(UserError, match=r"only 33\.\d% of its items"):
        list(ScoreFile(tmp_path / "s.csv", corpus).score(full))


def test_candidates_of_another_system_that_lacks_a_target(corpus: Corpus, tmp_path: Path) -> None:
    """One target less must not make a file of candidates one of the whole catalogue, where the other targets would
    win."""
    data = candidate_scores(tmp_path / "s.csv", corpus, ("u20",))
    lines = (tmp_path / "s.csv").read_text().splitlines(keepends=True)
    target = f"{data.targets.user[0]},{data.items[data.target[0]]},"
    (tmp_path / "s.csv").write_text("".join(line for line in lines if not line.startswith(target)))
    with pytest.raises(
        UserError, match=r"s\.csv: set Books: has scores for candidates of u20 alone, but for no protocol of them all"
    ):
        list(ScoreFile(tmp_path / "s.csv", corpus).score(data))
    full = open_set(corpus, "Books", "test", ("full",), True, None, 0)
    with pytest.raises(
        UserError, match=r"only 33\.\d% of its items have a score, but the targets of 99\.1% of the users"
    ):
        list(ScoreFile(tmp_path / "s.csv", corpus).score(full))


def test_ids_that_two_sets_have_need_the_name_of_the_set(tmp_path: Path) -> None:
    """Two files of one platform that count items from 0: scores made for one would rank the other, too."""
    random = np.random.default_rng(0)
    sources = []
    for name in ("A", "B"):
        rows = ["user\titem\ttime"]
        rows += [
            f"u{user}\t{item}\t{time}" for user in range(30) for time, item in enumerate(random.permutation(20)[:8])
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join(rows) + "\n")
        titles = ["item\ttitle", *(f"{item}\tTitle {name} {item}" for item in range(20))]
        (tmp_path / f"{name}.items.tsv").write_text("\n".join(titles) + "\n")
        source = {
            "name": name,
            "adapter": "table",
            "interactions": f"{name}.tsv",
            "items": f"{name}.items.tsv",
            "role": "pretrain",
        }
        sources.append(source | {"columns": {"user": "user", "item": "item", "time": "time", "title": "title"}})
    prepare({"corpus": {"sources": sources, "root": str(tmp_path), "split": "leave_one_out", "k_core": 0}}, tmp_path)
    corpus = Corpus.open(tmp_path / "corpus")
    data = {name: open_set(corpus, name, "test", ("full",), True, None, 0) for name in ("A", "B")}
    scores = random.normal(size=(2, 30, 20))
    header, rows = "user_id,item_id,score,set", []
    for which, name in enumerate("AB"):
        rows += [f"u{user},{item},{scores[which, user, item]},{name}" for user in range(30) for item in range(20)]
    (tmp_path / "both.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "one.csv").write_text("\n".join(row.rpartition(",")[0] for row in [header, *rows[:600]]) + "\n")
    with pytest.raises(
        UserError, match=r"one.csv: 20 of its item ids, such as 0, are in set A and in set B; add a column 'set'"
    ):
        list(ScoreFile(tmp_path / "one.csv", corpus).score(data["A"]))
    method = ScoreFile(tmp_path / "both.csv", corpus)
    number = {user_key("default", f"u{user}"): user for user in range(30)}
    for which, name in enumerate("AB"):
        (found,) = method.score(data[name])
        assert found.scores is not None and not method.facts().get("rows_of_other_users")
        ids = [int(corpus.item_ids[item]) for item in data[name].items]
        for row, user in enumerate(data[name].targets.user.tolist()):
            np.testing.assert_array_equal(found.scores[row], scores[which, number[user], ids])


def test_ids_that_are_no_text_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    for values in ([b"\xff"], [["a"]]):
        pq.write_table(pa.table({"user_id": values, "item_id": ["a"], "score": [1.0]}), tmp_path / "s.parquet")
        with pytest.raises(UserError, match=r"s\.parquet: user_id, item_id and set must be texts or numbers"):
            ScoreFile(tmp_path / "s.parquet", corpus)
    (tmp_path / "s.csv").write_bytes("user,item,score,größe\n1,2,.5,3\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"s\.csv: cannot be read"):
        ScoreFile(tmp_path / "s.csv", corpus)


@pytest.mark.parametrize("name", ["s.tsv.gz", "s.csv", "s.parquet"])
def test_ids_of_the_sources_are_the_numbers_of_the_corpus(
    corpus: Corpus, books: EvalSet, tmp_path: Path, name: str
) -> None:
    ids, platform = corpus.item_ids, corpus.manifest["sources"]["Books"]["platform"]
    people = {user_key(platform, raw): raw for raw in _user_names(10_000)}
    items = [*books.items[:50], -1]  # the last one is of no set
    score = np.random.default_rng(0).normal(size=(len(books), 51))
    rows = [
        (people[user], "nowhere" if item < 0 else ids[item], score[row, column])
        for row, user in enumerate(books.targets.user.tolist())
        for column, item in enumerate(items)
    ]
    columns = dict(zip(("user_id", "item_id", "score"), map(list, zip(*rows, strict=True)), strict=True))
    if name.endswith("parquet"):
        pq.write_table(pa.table(columns), tmp_path / name)
    else:
        mark = "\t" if "tsv" in name else ","
        lines = [mark.join(columns), *(mark.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        text = ("\n".join(lines) + "\n").encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    scores = np.concatenate(
        [scored.scores for scored in ScoreFile(tmp_path / name, corpus).score(books) if scored.scores is not None]
    )
    np.testing.assert_array_equal(scores[:, :50], score[:, :50])
    assert (scores[:, 50:] < score.min()).all()
