"""Reading results.json and metrics.jsonl, whole and damaged."""

import itertools
import json
import math

import pytest

from cprec_jax.errors import UserError
from cprec_jax.evaluate.metrics import random_ranker
from cprec_jax.evaluate.results import read_result, read_results
from cprec_jax.report.training_metrics import read_metrics
from tests.report import workdirs


def test_reads_what_the_harness_writes(tmp_path):
    path = tmp_path / "results.json"
    workdirs.write(path, workdirs.result("cpt", 0.2, {"Books": 800}))
    result = read_result(path)
    books = result.sets["Books"]
    assert (result.name, result.kind, result.step, books.users) == ("cpt", "checkpoint", 300, 800)
    assert books.protocols["full"].values["hr@10"] == 0.2
    low, high = books.protocols["full"].ci95["hr@10"]
    assert low < 0.2 < high
    warm = books.slice_of("warm", "full")
    assert warm is not None and warm.users == 640 and warm.values["hr@10"] == pytest.approx(0.22)


def test_unknown_keys_are_tolerated_and_slices_may_have_protocols(tmp_path):
    value = workdirs.result("cpt", 0.2, {"Books": 800}, invented={"a": [1]})
    value["sets"]["Books"]["colour"] = "blue"
    value["sets"]["Books"]["protocols"]["full"]["histogram"] = [1, 2]
    value["sets"]["Books"]["slices"] = {
        "warm": {"users": 10, "protocols": {"full": {"hr@10": 0.5, "ci95": {"hr@10": [0.4, 0.6]}}}}
    }
    workdirs.write(tmp_path / "results.json", value)
    books = read_result(tmp_path / "results.json").sets["Books"]
    assert "histogram" not in books.protocols["full"].values
    warm = books.slice_of("warm", "full")
    assert warm is not None and warm.values == {"hr@10": 0.5} and warm.ci95 == {"hr@10": (0.4, 0.6)}


def test_a_lower_bound_of_mrr_does_not_stand_beside_exact_ones(tmp_path):
    value = workdirs.result("cpt", 0.2, {"Books": 800, "Games": 800})
    value["sets"]["Books"]["ranks_exact_to"] = 100
    value["sets"]["Games"]["ranks_exact_to"] = workdirs.N_ITEMS
    workdirs.write(tmp_path / "results.json", value)
    books, games = read_result(tmp_path / "results.json").sets.values()
    has = {protocol: "mrr" in measured.values for protocol, measured in books.protocols.items()}
    assert has == {"full": False, "full_unmasked": False, "u20": True}
    assert "mrr" not in books.slices["warm"]["full"].values and "mrr" not in books.protocols["full"].ci95
    assert "hr@100" in books.protocols["full"].values and "mrr" in games.protocols["full"].values, (
        "all of Games is ranked"
    )


def test_forgetting_is_the_mean_over_seeds(tmp_path):
    """With five seeds the table used to show the first one's perplexity alone."""
    of_seeds = [
        {"file": "a.txt", "tokens": 90, "perplexity": value, "bits_per_byte": value / 10}
        for value in (20.0, 30.0, 40.0)
    ]
    for general, perplexity in ((of_seeds, 30.0), (of_seeds[0], 20.0)):
        workdirs.write(tmp_path / "results.json", workdirs.result("cpt", 0.2, {"Books": 800}, general_text=general))
        expected = {
            "file": "a.txt",
            "tokens": 90,
            "perplexity": perplexity,
            "bits_per_byte": pytest.approx(perplexity / 10),
        }
        assert read_result(tmp_path / "results.json").general_text == expected
    workdirs.write(tmp_path / "results.json", workdirs.result("cpt", 0.2, {"Books": 800}))
    assert read_result(tmp_path / "results.json").general_text == {}


def _without(value, *keys):
    *parents, last = keys
    for key in parents:
        value = value[key]
    del value[last]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: _without(v, "name"),
        lambda v: _without(v, "sets"),
        lambda v: _without(v, "corpus_hash"),
        lambda v: _without(v, "sets", "Books", "users"),
        lambda v: _without(v, "sets", "Books", "protocols"),
        lambda v: v["sets"]["Books"]["protocols"]["full"].update({"hr@10": float("nan")}),
        lambda v: v["sets"]["Books"]["protocols"]["full"]["ci95"].update({"hr@10": [0.1]}),
        lambda v: v["sets"].update(Books=[]),
    ],
)
def test_a_damaged_result_is_named(tmp_path, spoil):
    path = tmp_path / "results" / "cpt" / "results.json"
    value = workdirs.result("cpt", 0.2, {"Books": 800})
    spoil(value)
    workdirs.write(path, value)
    with pytest.raises(UserError, match="damaged") as error:
        read_results(tmp_path)
    assert str(path) in str(error.value) and "launch.py evaluate" in str(error.value)


@pytest.mark.parametrize("text", ["", "{", '{"name": "cpt', "[1, 2"])
def test_a_truncated_result_is_named(tmp_path, text):
    path = tmp_path / "results" / "cpt" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match="damaged") as error:
        read_results(tmp_path)
    assert str(path) in str(error.value)


def test_a_result_that_is_a_list_is_damaged(tmp_path):
    workdirs.write(tmp_path / "results" / "cpt" / "results.json", [1, 2])
    with pytest.raises(UserError, match="damaged"):
        read_results(tmp_path)


def test_no_results_names_the_job_to_run(tmp_path):
    with pytest.raises(UserError, match=r"run `launch\.py evaluate`"):
        read_results(tmp_path)


def test_half_written_results_are_no_results(tmp_path):
    workdirs.write(tmp_path / "results" / ".cpt.1.tmp" / "results.json", workdirs.result("cpt", 0.2, {"Books": 800}))
    with pytest.raises(UserError, match=r"run `launch\.py evaluate`"):
        read_results(tmp_path)


def test_two_results_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        workdirs.write(tmp_path / "results" / folder / "results.json", workdirs.result("cpt", 0.2, {"Books": 800}))
    with pytest.raises(UserError, match="same name"):
        read_results(tmp_path)


def test_random_ranker_equals_the_mean_over_all_ranks():
    for n in (1, 7, 20, 150):
        values = random_ranker(n)
        ranks = range(1, n + 1)
        for k in (1, 5, 10, 20, 100):
            assert values[f"hr@{k}"] == pytest.approx(sum(rank <= k for rank in ranks) / n)
        for k in (5, 10, 20):
            assert values[f"ndcg@{k}"] == pytest.approx(sum(1 / math.log2(1 + rank) for rank in ranks if rank <= k) / n)
        assert values["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / n)
        assert values["nll"] == pytest.approx(math.log(n))


def test_random_ranker_has_the_known_values_of_20_candidates():
    values = random_ranker(20)
    wanted = {"hr@1": 0.05, "hr@5": 0.25, "hr@10": 0.5, "ndcg@5": 0.1474, "ndcg@10": 0.2272, "mrr": 0.1799}
    assert {key: round(values[key], 4) for key in wanted} == wanted


def test_metrics_of_every_run_and_seed_are_read_and_a_cut_last_line_is_skipped(tmp_path):
    for run, n in (("cpt", 5), ("sft.seed-1", 3), ("empty", 0)):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        lines = [json.dumps(workdirs.metrics_line(step, 10)) for step in range(1, n + 1)]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "lo')
    metrics = read_metrics(tmp_path)
    assert {run: [r["step"] for r in records] for run, records in metrics.items()} == {
        "cpt": [1, 2, 3, 4, 5],
        "sft.seed-1": [1, 2, 3],
    }
    assert all(a["loss"] > b["loss"] for a, b in itertools.pairwise(metrics["cpt"][:2]))


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    folder = tmp_path / "runs" / "cpt"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\nrubbish\n{"step": 3, "loss": 1.0}\n')
    with pytest.raises(UserError, match="line 2 is damaged"):
        read_metrics(tmp_path)
