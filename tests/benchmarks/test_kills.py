"""The benchmark of kills counts what it tried, goes on from its state, and tells other bits from the same."""

import json
from pathlib import Path

import pytest

from benchmarks import kills


@pytest.mark.slow
def test_kills_are_survived_and_counted_over_two_calls(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    for wanted in (1, 3):
        kills.main(["--kills", str(wanted), "--work", str(tmp_path / "work"), "--json", str(rows)])
        values = {row["name"]: row["value"] for row in json.loads(rows.read_text())}
        assert values["kills_tried"] >= wanted and values["kills_survived"] == values["kills_tried"]
    state = json.loads((tmp_path / "work/state.json").read_text())
    assert {kill["processes"] for kill in state["kills"]} == {1, 2} and state["pending"] == []


def run_of(workdir: Path, parameters: str, losses: list[float]) -> Path:
    run = workdir / "runs/cpt"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"params_sha256": parameters}))
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": x, "tokens": i}) + "\n" for i, x in enumerate(losses, 1))
    )
    return workdir


@pytest.mark.parametrize(
    ("parameters", "losses", "same"), [("a", [2.0, 1.0], True), ("b", [2.0, 1.0], False), ("a", [2.0, 1.1], False)]
)
def test_other_bits_do_not_count_as_survived(tmp_path: Path, parameters: str, losses: list[float], same: bool) -> None:
    runs = kills.Runs(tmp_path)
    run_of(tmp_path / "alone-1", "a", [2.0, 1.0])
    runs.state.seconds["1"] = 1.0
    run_of(tmp_path / "run-0", parameters, losses)
    runs.state.pending = [{"processes": 1, "target": "all", "at_save": False, "seconds": 0.5}]
    kills.end_run(runs)
    assert [kill["survived"] for kill in runs.state.kills] == [same]
    assert kills.Runs(tmp_path).state == runs.state


def test_a_quarter_of_the_kills_are_of_two_processes() -> None:
    def following(*processes: int) -> int:
        return kills.State(kills=[{"processes": n} for n in processes]).processes

    assert following() == 1
    assert following(1) == following(1, 1, 1, 1, 2) == 2
    assert following(1, 2) == following(1, 1, 1, 2) == 1
