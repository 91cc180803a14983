"""`launch.py compare` on results of real rank files."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_jax import cli
from cprec_jax.errors import UserError
from cprec_jax.evaluate.metrics import per_user
from cprec_jax.report import compare


def write_result(
    directory: Path,
    better: np.ndarray,
    kind: str = "checkpoint",
    corpus: str = "c",
    users: np.ndarray | None = None,
    rule: str = "trie",
    protocol: str = "full",
    too_small: bool = False,
    split: str = "test",
) -> Path:
    """Ranks [seeds, n] of one set."""
    seeds, n = better.shape
    users = np.arange(n) if users is None else users
    directory.mkdir(parents=True)
    record = {
        "name": directory.name,
        "kind": kind,
        "corpus_hash": corpus,
        "scoring_rule": rule,
        "sets": {"Books": {"users": n, "protocols": {}, "too_small": too_small}},
        "split": split,
    }
    (directory / "results.json").write_text(json.dumps(record))
    columns = {
        "set": ["Books"] * better.size,
        "protocol": [protocol] * better.size,
        "user": np.tile(users, seeds),
        "n_better": better.reshape(-1),
        "n_tied": np.zeros(better.size, int),
        "nll": np.log(2.0 + better.reshape(-1)),
        "seed": np.repeat(np.arange(seeds), n),
    }
    pq.write_table(pa.table(columns), directory / "ranks.parquet")
    return directory


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """`good` (5 seeds) is far better than `counts` (no seeds), and `alike` (5 seeds) is not told apart from it."""
    rng = np.random.default_rng(0)
    good = rng.integers(0, 30, (5, 400))
    write_result(tmp_path / "w" / "results" / "good", good, too_small=True)
    write_result(tmp_path / "w" / "results" / "alike", np.roll(good, 1, axis=1))
    write_result(tmp_path / "w" / "results" / "counts", rng.integers(0, 300, (1, 400)), kind="markov")
    return tmp_path / "w" / "results"


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with open(path, newline="") as stream:
        return {(row["reference"], row["metric"]): row for row in csv.DictReader(stream)}


def test_a_table_with_marks(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = results.parent / "out" / "compare.csv"
    assert cli.main(["compare", str(results), "--method=good", f"--out={out}", "--metrics=hr@10,nll"]) == 0
    text = capsys.readouterr().out
    lines = {
        line.split()[0]: line for line in text.splitlines() if line and line.split()[0] in ("good", "alike", "counts")
    }
    assert "▼" in lines["counts"] and "▼" not in lines["alike"] and "Books, NLL" in text
    assert "! too small: 400 users, fewer than 500" in text
    rows = rows_of(out)
    assert rows["counts", "hr@10"]["reference_is"] == "worse" == rows["counts", "nll"]["reference_is"]
    assert rows["alike", "hr@10"]["reference_is"] == "" and rows["alike", "hr@10"]["too_small"] == "yes"
    # seeds: a t-test, also against a method that has none
    assert float(rows["counts", "hr@10"]["p_seeds"]) < 0.01 and float(rows["counts", "hr@10"]["effect"]) > 0
    hits = [
        per_user(pq.read_table(results / name / "ranks.parquet")["n_better"].to_numpy(), 0)["hr@10"]
        for name in ("good", "counts")
    ]
    assert float(rows["counts", "hr@10"]["difference"]) == pytest.approx(hits[0].mean() - hits[1].mean())


def test_the_other_way_round(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = results.parent / "compare.md"
    assert cli.main(["compare", str(results / "counts"), str(results / "good" / "results.json"), f"--out={out}"]) == 0
    text = out.read_text()
    assert "### Books, HR@10" in text and "| **" in text and "▲" in text and "▼" not in text.split("▲ significantly")[0]
    assert capsys.readouterr().out.count("▲") >= 3  # HR, NDCG, NLL, and the legend


@pytest.mark.parametrize("kind", ["hf", "scores"])
def test_what_has_no_seed_is_tested_against_those_that_have(results: Path, tmp_path: Path, kind: str) -> None:
    theirs = write_result(tmp_path / "theirs", np.full((1, 400), 50), kind=kind)
    out = tmp_path / "compare.csv"
    assert cli.main(["compare", str(results / "good"), str(theirs), f"--out={out}", "--metrics=nll"]) == 0
    assert float(rows_of(out)["theirs", "nll"]["p_seeds"]) < 0.01


def test_the_oracle_is_shown_and_takes_no_part(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Perfect ranks of the oracle get no mark, and leave the best of the methods and Holm's family as they are."""
    assert cli.main(["compare", str(results), "--method=good", "--metrics=hr@10"]) == 0
    before = [
        line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("good", "alike", "counts"))
    ]
    write_result(results / "a", np.zeros((1, 400), int), kind="oracle")
    assert cli.main(["compare", str(results), "--method=good", "--metrics=hr@10"]) == 0
    lines = [
        line.split()
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("good", "alike", "counts", "a "))
    ]
    assert [line for line in lines if line[0] != "a"] == before
    assert next(line for line in lines if line[0] == "a")[1:3] == ["1.0000", "–"]


def test_sampled_candidates_have_no_nll(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of the ranks is over the whole catalogue."""
    for name in ("one", "two"):
        write_result(tmp_path / name, np.zeros((1, 400), int), protocol="u20")
    assert cli.main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--protocol=u20"]) == 0
    text = capsys.readouterr().out
    assert "Books, HR@10" in text and "Books, NLL" not in text


def test_a_lower_bound_of_mrr_is_not_tested(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((results / "good" / "results.json").read_text())
    record["sets"]["Books"] |= {"ranks_exact_to": 100, "items": 500}
    (results / "good" / "results.json").write_text(json.dumps(record))
    assert cli.main(["compare", str(results), "--method=alike", "--metrics=mrr"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert "counts" in rows and "alike" in rows and "good" not in rows


def test_pairs_that_a_file_of_scores_left_out_are_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(results), "--metrics=mrr"]) == 0
    assert "no score" not in capsys.readouterr().out
    record = json.loads((results / "counts" / "results.json").read_text())
    record["sets"]["Books"]["pairs_without_score"] = 1234
    (results / "counts" / "results.json").write_text(json.dumps(record | {"kind": "scores"}))
    assert cli.main(["compare", str(results), "--metrics=mrr"]) == 0
    assert "Books: counts has no score for 1,234 pairs of user and item" in capsys.readouterr().out


def test_only_common_users_are_paired(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = write_result(tmp_path / "few", np.zeros((1, 200), int), users=np.arange(300, 500))
    assert cli.main(["compare", str(results / "good"), str(few), "--metrics=mrr"]) == 0
    assert "100 users" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "compare: name the results"),
        (["{good}"], "at least two results"),
        (["{results}", "--method=god"], "no such result; did you mean 'good'"),
        (["{results}", "--metrics=hr@11"], "unknown metric; did you mean 'hr@1"),
        (["{results}", "--out=x.txt"], "end it with .md or .csv"),
        (["{results}", "--protocol=u20"], "no ranks under protocol 'u20'"),
        (["{results}", "--metod=good"], "unknown option of compare; did you mean 'method'"),
        (["{good}", "{other}"], "different corpora"),
        (["{results}/nothing"], "no results here"),
        (["{good}", "{summed}"], "different scoring rules do not compare (good: trie, summed: sum)"),
        (
            ["{counts}", "{good}", "{summed}"],
            "(good: trie, summed: sum); evaluate again with --config.evaluate.rule=trie",
        ),
        (["{good}", "{counts}", "{bound}"], "different corpora"),
        (["{good}", "{oracle}"], "at least two results (beside the oracle and random)"),
        (["{good}", "{random}"], "at least two results (beside the oracle and random)"),
        (["{good}", "{random}", "--method=random"], "random is a closed form without draws, which cannot be tested"),
        (["{good}", "{oracle}", "--method=oracle"], "the oracle is a bound, not a method"),
    ],
)
def test_mistakes(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write_result(tmp_path / "other", np.zeros((1, 400), int), corpus="d")
    write_result(tmp_path / "summed", np.zeros((1, 400), int), rule="sum")
    write_result(tmp_path / "oracle", np.zeros((1, 400), int), kind="oracle")
    write_result(tmp_path / "bound", np.zeros((1, 400), int), kind="oracle", corpus="d")
    write_result(tmp_path / "random", np.full((1, 400), 30), kind="random")
    places = {name: tmp_path / name for name in ("other", "summed", "oracle", "bound", "random")}
    places |= {"good": results / "good", "counts": results / "counts", "results": results}
    assert cli.main(["compare", *(argument.format(**places) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["[1, 2]", '{"kind": "markov", "corpus_hash": "c", "sets": {}}', '{"name": "good", "sets": []}']
)
def test_damaged_results_are_named(results: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (results / "good" / "results.json").write_text(text)
    assert cli.main(["compare", str(results)]) == 2
    assert "good/results.json: damaged" in capsys.readouterr().err


def test_ranks_without_a_column_are_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = results / "good" / "ranks.parquet"
    pq.write_table(pq.read_table(ranks).drop_columns(["n_tied"]), ranks)
    assert cli.main(["compare", str(results)]) == 2
    assert "good/ranks.parquet: no column 'n_tied'" in capsys.readouterr().err


def test_damaged_ranks_are_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = results / "good" / "ranks.parquet"
    ranks.write_bytes(ranks.read_bytes()[:-50])
    assert cli.main(["compare", str(results)]) == 2
    assert "good/ranks.parquet: cannot be read" in capsys.readouterr().err


def test_equal_names_are_told_apart_by_their_work_directory(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path / "v" / "results" / "good", np.zeros((5, 400), int))
    assert cli.main(["compare", str(results / "good"), str(tmp_path / "v"), "--metrics=mrr"]) == 0
    text = capsys.readouterr().out
    assert "w/good" in text and "v/good" in text


def test_work_directories_of_one_name_are_told_apart_by_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in "ab":
        write_result(tmp_path / folder / "ml1m" / "results" / "good", np.zeros((1, 40), int))
    assert cli.main(["compare", str(tmp_path / "a" / "ml1m"), str(tmp_path / "b" / "ml1m"), "--metrics=mrr"]) == 0
    text = capsys.readouterr().out
    assert "a/ml1m/good" in text and "b/ml1m/good" in text
    places = [tmp_path / "w" / "results" / name for name in ("good", "copy")]
    assert compare.told_apart(["good", "good", "other"], [*places, tmp_path]) == [*map(str, places), "other"]


def test_chance_is_not_tested_against_its_expectation(tmp_path: Path) -> None:
    """No hits of a few expected ones would be p < .001: all differences have one sign."""
    write_result(tmp_path / "noise", np.full((1, 400), 700))
    write_result(tmp_path / "counts", np.full((1, 400), 700), kind="markov")
    write_result(tmp_path / "random", np.full((1, 400), 30), kind="random")
    text = compare.run(
        compare.Request(paths=tuple(tmp_path / name for name in ("random", "noise", "counts")), metrics=("mrr",))
    )
    (row,) = [line for line in text.splitlines() if line.startswith("random ")]
    assert row.split()[2:] == ["–"] * 6
    assert text.count("counts") == 1 and "p < .001" not in text


def test_who_has_fewer_users_is_named(tmp_path: Path) -> None:
    write_result(tmp_path / "good", np.zeros((1, 400), int))
    write_result(tmp_path / "quick", np.ones((1, 20), int))
    write_result(tmp_path / "alike", np.zeros((1, 400), int))
    text = compare.run(compare.Request(paths=tuple(tmp_path / name for name in ("good", "alike", "quick"))))
    assert "Only the 20 users that all results have ranked (quick has 20, others up to 400)" in text


def test_users_that_only_some_have_are_named(tmp_path: Path) -> None:
    write_result(tmp_path / "good", np.zeros((1, 60), int))  # of a large set: `max_users`
    write_result(tmp_path / "other", np.zeros((1, 60), int), users=np.arange(60) + 20)
    text = compare.run(compare.Request(paths=(tmp_path / "good", tmp_path / "other")))
    assert "Only the 40 users that all results have ranked (each has 60, but not the same)" in text
    assert "too small" not in text


def test_results_of_the_validation_split_are_found_by_themselves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("good", "other"):
        write_result(tmp_path / "results-valid" / name, rng.integers(0, 9, (1, 40)), split="valid")
    assert [path.name for path in compare.expand(tmp_path)] == ["good", "other"]
    assert "other" in compare.run(compare.Request(paths=(tmp_path,)))
    for name in ("good", "other"):
        write_result(tmp_path / "results" / name, rng.integers(0, 9, (1, 50)))
    assert [path.parent.name for path in compare.expand(tmp_path)] == ["results"] * 2
    assert "40 users, full" in compare.run(compare.Request(paths=(tmp_path / "results-valid",)))
    with pytest.raises(UserError, match="are not of one split"):
        compare.run(compare.Request(paths=(tmp_path / "results/good", tmp_path / "results-valid/good")))


def test_a_folder_may_hold_scores_of_candidates_alone(results: Path) -> None:
    write_result(results / "theirs", np.zeros((1, 400), int), kind="scores", protocol="u20")
    text = compare.run(compare.Request(paths=(results,)))
    assert "theirs has no ranks under full and is left out." in text and "alike" in text
    with pytest.raises(UserError, match="theirs: has no ranks under protocol 'full'"):
        compare.run(compare.Request(paths=(results, results / "theirs")))


def with_slice(directory: Path, name: str, users: np.ndarray) -> None:
    columns = {"set": ["Books"] * len(users), "slice": [name] * len(users), "user": users}
    pq.write_table(pa.table(columns), directory / "slices.parquet")


def test_the_users_of_a_slice_alone(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = results.parent / "slice.csv"
    for name in ("good", "alike", "counts"):
        with_slice(results / name, "generalised", np.arange(100, 160))
    assert (
        cli.main(["compare", str(results), "--method=good", "--slice=generalised", "--metrics=hr@10", f"--out={out}"])
        == 0
    )
    assert "60 users, full, generalised" in capsys.readouterr().out
    row = rows_of(out)["counts", "hr@10"]
    better = pq.read_table(results / "good" / "ranks.parquet")["n_better"].to_numpy().reshape(5, 400)[:, 100:160]
    assert (
        row["users"] == "60"
        and row["slice"] == "generalised"
        and float(row["value"]) == pytest.approx((better < 10).mean())
    )


def test_a_slice_that_is_not_there(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good", "alike"):
        with_slice(results / name, "generalised", np.arange(100))
    assert cli.main(["compare", str(results / "good"), str(results / "alike"), "--slice=general"]) == 2
    assert (
        "--slice=general: no slice of" in (error := capsys.readouterr().err) and "did you mean 'generalised'" in error
    )
    assert cli.main(["compare", str(results), "--slice=generalised"]) == 2
    assert "counts/slices.parquet: cannot be read" in capsys.readouterr().err
