"""What was ranked or trained before is used again where it would come out the same, and only there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cprec_jax.jobs.making import evaluate
from cprec_jax.methods import registry, sequential
from cprec_jax.train.open import LoadedModel
from cprec_jax.workdir import cell_directory, trained_directory
from tests import run_jobs as jobs
from tests.evaluate.world import EVALUATE, column

SECTION: dict[str, Any] = {
    "names": {
        "both": {"kind": "ensemble", "members": ["gru", "text"]},
        "decayed": {"kind": "popularity_decayed"},
        "gru": {"kind": "gru4rec"},
        "text": {"kind": "text_knn"},
    },
    "sets": ["Books"],
    "protocols": ["full", "u20"],
    "bootstrap": 20,
    "max_users": 12,
    "validation_users": 20,
    "sequential": {
        "hidden": 8,
        "layers": 1,
        "max_length": 2,
        "epochs": 1,
        "dropout": [0.1],
        "learning_rate": [1e-2],
        "validation_users": 20,
    },
    "text_knn": {
        "features": ["words 1"],
        "weightings": ["tfidf"],
        "step_weights": [1.0],
        "last_items": [5],
        "validation_users": 20,
    },
    "ensemble": {"parts": 2, "temperatures": [1.0], "validation_users": 20},
}
ONE, TWO = {**SECTION, "seeds": 1}, {**SECTION, "seeds": 2}


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[str], list[int]]]:
    """Evaluates, and gives what was ranked (row, set) and the seeds of what was trained."""
    ranked: list[str] = []
    fitted: list[int] = []
    collect, fit = evaluate.collect, sequential.fit
    monkeypatch.setattr(
        evaluate,
        "collect",
        lambda method, data, name: ranked.append(f"{name} {data.name}") or collect(method, data, name),
    )
    monkeypatch.setattr(sequential, "fit", lambda *given: fitted.append(given[4]) or fit(*given))

    def run(workdir: Path, section: dict[str, Any], **changes: Any) -> tuple[list[str], list[int]]:
        ranked.clear()
        fitted.clear()
        jobs.evaluate({"evaluate": {**section, **changes}}, workdir)
        return sorted(ranked), list(fitted)

    return run


def found(workdir: Path, rows: Any = SECTION["names"]) -> dict[str, Any]:
    """All that was found, without how long it took."""
    results = {}
    for name in rows:
        directory = workdir / "results" / name
        record = json.loads((directory / "results.json").read_text())
        record = {key: value for key, value in record.items() if key not in ("cost", "environment")}
        text = json.dumps(record, sort_keys=True, indent=1)
        lines = [line for line in text.splitlines() if "train_seconds" not in line]
        results[name] = [
            lines,
            *(pq.read_table(directory / f"{what}.parquet").to_pylist() for what in ("ranks", "slices")),
        ]
    return results


@pytest.mark.slow
def test_one_more_seed_or_set_is_all_that_is_ranked(
    workdir: Path, again: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = ({**section, "sequential": {**SECTION["sequential"], "dropout": [0.1, 0.3]}} for section in (ONE, TWO))
    assert again(workdir, one) == (["both Books", "decayed Books", "gru Books", "text Books"], [0, 0])  # a grid of two
    single = found(workdir)
    assert again(workdir, one) == ([], []) and found(workdir) == single
    assert again(workdir, one, bootstrap=10) == ([], []) and found(workdir) != single
    assert again(workdir, two) == (["both Books", "gru Books"], [1])
    both_seeds = found(workdir)
    assert "both: 1 of 2 sets and seeds were ranked before" in capsys.readouterr().err
    both_sets = [f"{name} Games" for name in ("both", "both", "decayed", "gru", "gru", "text")]
    assert again(workdir, two, sets=["Books", "Games"]) == (both_sets, [0, 0, 1])
    assert again(workdir, two) == ([], []) and found(workdir) == both_seeds
    for kept in ("cells", "trained"):
        (workdir / kept).rename(tmp_path / kept)
    assert again(workdir, two)[1] == [0, 0, 1] and found(workdir) == both_seeds, "at once or one after the other"


@pytest.mark.slow
def test_what_changes_ranks_is_ranked_and_only_what_changes_training_is_trained(workdir: Path, again: Any) -> None:
    again(workdir, ONE)
    everything = ["both Books", "decayed Books", "gru Books", "text Books"]
    assert again(workdir, ONE, max_users=11) == (everything, [])
    assert again(workdir, ONE, temperatures=(1.0, 2.0), max_users=11) == (["both Books", "gru Books"], [])
    text = {**ONE["text_knn"], "last_items": [3]}
    assert again(workdir, ONE, max_users=11, temperatures=(1.0, 2.0), text_knn=text) == (
        ["both Books", "text Books"],
        [],
    )
    smaller = {**ONE["sequential"], "dropout": [0.2]}
    assert again(workdir, ONE, max_users=11, sequential=smaller) == (everything[:1] + everything[2:], [0])
    manifest = workdir / "corpus" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"corpus_hash": "', '"corpus_hash": "another'))
    assert again(workdir, ONE, max_users=11, sequential=smaller) == (everything, [0]), "of another corpus"


@pytest.mark.parametrize("damage", ["gone", "cut", "changed", "manifest"])
def test_what_is_damaged_is_made_again(workdir: Path, again: Any, damage: str) -> None:
    again(workdir, TWO, names={"gru": {"kind": "gru4rec"}})
    expected = found(workdir, ["gru"])
    for directory in (
        cell_directory(workdir, "test", "gru", "Books", 1),
        trained_directory(workdir, "gru", "Books", 1),
    ):
        arrays = directory / "arrays.npz"
        whole = arrays.read_bytes()
        if damage == "gone":
            arrays.unlink()
        elif damage == "cut":
            arrays.write_bytes(whole[:-10])
        elif damage == "changed":
            middle = len(whole) // 2
            arrays.write_bytes(whole[:middle] + bytes(100) + whole[middle + 100 :])
        else:
            (directory / "manifest.json").write_text('{"made_from": ')
    assert again(workdir, TWO, names={"gru": {"kind": "gru4rec"}}) == (["gru Books"], [1])
    assert found(workdir, ["gru"]) == expected


@pytest.mark.slow
def test_a_seed_of_a_run_is_ranked_when_that_run_is_another(
    evaluated: Any, again: Any, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule that the first seed chose is that of a seed which comes later, without loading the first."""
    (tmp_path / "runs" / "cpt.seed-1").mkdir()
    loaded = []
    monkeypatch.setattr(registry, "load_model", lambda *given: loaded.append(given[-1].name) or model)

    def of_seeds(*parameters: str) -> list[str]:
        for seed, name in enumerate(("cpt", "cpt.seed-1")[: len(parameters)]):
            (tmp_path / "runs" / name / "manifest.json").write_text(json.dumps({"params_sha256": parameters[seed]}))
        loaded.clear()
        again(
            tmp_path,
            {**EVALUATE, "max_users": 2, "validation_users": 2, "rule": "validation", "seeds": len(parameters)},
        )
        return list(loaded)

    assert of_seeds("a") == ["cpt"]
    rule = json.loads((tmp_path / "results/model/results.json").read_text())["scoring_rule"]
    assert of_seeds("a", "b") == ["cpt.seed-1"]
    assert json.loads((tmp_path / "results/model/results.json").read_text())["scoring_rule"] == rule
    ranks = column(pq.read_table(tmp_path / "results/model/ranks.parquet"), "n_better")
    assert len(ranks) == 4 and np.array_equal(ranks[:2], ranks[2:]), "the same model twice"
    assert of_seeds("a", "b") == [] and of_seeds("a", "c") == ["cpt.seed-1"]
    assert of_seeds("d", "c") == ["cpt", "cpt.seed-1"], "the first chooses the rule of all"
