"""Fine-tuning: a run per set, chosen by validation users, started from what its start stands for, evaluated on its own
set."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.train.description import read_description
from cprec_jax.train.restore import restore_decoder
from tests import road
from tests import run_jobs as jobs

pytestmark = pytest.mark.slow  # whole runs, which are trained for it; CI runs them

SFT: dict[str, Any] = {
    "stage": "sft",
    "start": "cpt",
    "train": {"steps": 4},
    "select_from": (0.5, 1.0),
    "sft": {"objective": "catalogue"},
}


def config(runs: dict[str, Any], **rows: Any) -> dict[str, Any]:
    train = {"steps": 4, "milestones": [], "checkpoint_every": 100, "schedule": {"peak": 3e-3}, "loggers": ("jsonl",)}
    made = road.config(train=train, model={"dropout": 0.0})
    return {
        **made,
        "runs": runs,
        "export": None,
        "evaluate": {**made["evaluate"], "names": {"random": {"kind": "random"}, **rows}},
    }


def manifest(workdir: Path, name: str) -> dict[str, Any]:
    return json.loads((workdir / "runs" / name / "manifest.json").read_text())


def params(workdir: Path, name: str, step: int | None = None) -> Any:
    return restore_decoder(workdir / "runs" / name, step=step).params


def same(a: Any, b: Any) -> bool:
    import jax

    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


RUNS = {"cpt": {}, "sft": {**SFT, "sets": ("Garden", "Books")}}


@pytest.fixture(scope="module")
def tuned(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-training, and fine-tuning on an unseen set and on a domain, each by itself."""
    workdir = tmp_path_factory.mktemp("tuned") / "road"
    workdir.mkdir()
    shutil.copytree(tiny_rows / "corpus", workdir / "corpus")
    jobs.run(config(RUNS, zero={"run": "cpt"}, sft={"run": "sft"}), workdir)
    return workdir


def test_each_set_has_a_run_that_starts_from_the_parameters_of_its_start(tuned: Path) -> None:
    assert sorted(path.name for path in (tuned / "runs").iterdir()) == ["cpt", "sft@Books", "sft@Garden"]
    for name in ("sft@Garden", "sft@Books"):
        assert same(params(tuned, name, 0), params(tuned, "cpt")) and not same(
            params(tuned, name), params(tuned, "cpt")
        )
        assert manifest(tuned, name)["first"] == 0, "new optimizer, rows from the start"
        description = read_description(tuned / "runs" / name)
        assert (description["rows"], description["sets"]) == ("sft", [name.partition("@")[2]])
    lines = [json.loads(line) for line in (tuned / "runs/sft@Garden/metrics.jsonl").read_text().splitlines()]
    items = 60
    assert all(0 < line["loss"] < 2 * np.log(items) and line["items"] > 0 for line in lines), "nats per item"


def test_it_stands_for_the_checkpoint_that_ranks_validation_users_best(tuned: Path) -> None:
    found = manifest(tuned, "sft@Garden")
    values = found["ndcg@10_by_step"]
    assert list(values) == ["2", "4"] and found["selected"] == int(max(values, key=values.__getitem__))
    assert restore_decoder(tuned / "runs/sft@Garden").step == found["selected"]


def test_a_row_asks_the_run_of_each_set_and_has_no_others(tuned: Path) -> None:
    results = {name: json.loads((tuned / "results" / name / "results.json").read_text()) for name in ("zero", "sft")}
    assert sorted(results["zero"]["sets"]) == ["Books", "Games", "Garden"] and sorted(results["sft"]["sets"]) == [
        "Books",
        "Garden",
    ]
    steps = {one: manifest(tuned, f"sft@{one}")["selected"] for one in ("Books", "Garden")}
    assert results["sft"].get("step_by_set", dict.fromkeys(steps, results["sft"]["step"])) == steps
    made_from = json.loads((tuned / "results/sft/manifest.json").read_text())["made_from"]["inputs"]
    assert {"runs/sft@Books", "runs/sft@Garden"} < set(made_from) and "runs/cpt" not in made_from


def test_what_another_set_is_wakes_nothing(tuned: Path) -> None:
    """A run counts its own set alone: fine-tuning on one set less leaves the others as they are."""
    runs = {**RUNS, "sft": {**RUNS["sft"], "sets": ("Garden",)}}
    states = jobs.states(config(runs, sft={"run": "sft"}), tuned)
    assert states["rows/sft"].word == "out of date" and states["runs/sft@Garden"].reason == "for rows/sft"
    longer = {**RUNS, "sft": {**RUNS["sft"], "train": {"steps": 5}}}
    states = jobs.states(config(longer, sft={"run": "sft"}), tuned)
    assert states["runs/sft@Garden"].word == "out of date" and states["runs/cpt"].word == "current"
    other = {**RUNS, "sft": {**RUNS["sft"], "select_from": (1.0,)}}
    assert jobs.states(config(other, sft={"run": "sft"}), tuned)["runs/sft@Books"].reason == "select_from changed"


def test_export_and_generation_name_a_run_of_a_set(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.run({**config(RUNS), "export": {"runs": ("sft",)}}, tuned, ["export/sft@Garden"])
    assert (tuned / "export/sft@Garden/model.safetensors").exists() and not (tuned / "export/sft@Books").exists()
    card = (tuned / "export/sft@Garden/README.md").read_text()
    assert "fine-tun" in card.lower() and "Garden" in card
    title = Corpus.open(tuned / "corpus").items.title[-1]
    asked = {"set": "Garden", "history": json.dumps([title])}
    jobs.generate({"generate": {"run": "sft@Garden", "titles": 3, "prompt_tokens": 40}}, tuned, asked)
    assert "sft@Garden" in capsys.readouterr().err


def test_of_sets_that_are_not_evaluated_a_row_says_so(tuned: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "road"  # the rows before that one are ranked
    shutil.copytree(tuned, workdir)
    made = config(RUNS, sft={"run": "sft"})
    made["evaluate"]["sets"] = ("Games",)
    with pytest.raises(
        UserError,
        match=r"config.evaluate.names.sft: its run is one per set \(Garden, Books\), and none of these is evaluated",
    ):
        jobs.evaluate(made, workdir)


def test_a_set_that_the_corpus_lacks_is_one_line(tuned: Path) -> None:
    made = config({"sft": {**SFT, "start": "base", "sets": ("Gardens",)}})
    with pytest.raises(
        UserError,
        match=r"config.runs.sft.sets: no source of config.corpus is called 'Gardens'; did you mean 'Garden'\?",
    ):
        jobs.run(made, tuned)
    del made["corpus"]
    with pytest.raises(UserError, match=r"no set 'Gardens'; did you mean 'Garden'\?"):
        jobs.pack(made, tuned)


def test_items_of_rows_from_another_corpus_are_none_of_the_catalogue(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "rows", tmp_path / "rows")
    other = config({"sft": {**SFT, "start": "base", "sets": ("Garden",)}})
    other["corpus"]["synthetic"] = {**other["corpus"]["synthetic"], "users": 200}
    jobs.prepare(other, tmp_path)
    with pytest.raises(
        UserError, match=r"rows/sft: was packed from another corpus than .*; run `launch.py pack` again"
    ):
        jobs.train(other, tmp_path)


def test_without_its_rows_the_job_alone_says_which_command_makes_them(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "corpus", tmp_path / "corpus")
    with pytest.raises(
        UserError, match=r"rows/sft/manifest.json: not found; run `launch.py pack` with the same --workdir first"
    ):
        jobs.train(config({"sft": {**SFT, "start": "base", "sets": ("Garden",)}}), tmp_path)


def test_seeds_train_what_the_first_seed_chose_of_the_grid(tuned: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "road"
    shutil.copytree(tuned, workdir)
    grid = {"train": {"schedule": {"peak": (1e-5, 1e-2)}}}
    runs = {"cpt": {}, "sft": {**SFT, "sets": ("Garden",), "seeds": 2, "grid": grid}}
    made = config(runs, sft={"run": "sft"})
    jobs.run(made, workdir, ["results/sft"])
    first, second = manifest(workdir, "sft@Garden"), manifest(workdir, "sft@Garden.seed-1")
    assert [tried["values"]["train.schedule.peak"] for tried in first["tried"]] == [1e-5, 1e-2]
    values = [tried["ndcg@10"] for tried in first["tried"]]
    assert first["chosen"] == int(np.argmax(values)) and "tried" not in second
    for name in ("sft@Garden", "sft@Garden.seed-1"):
        assert read_description(workdir / "runs" / name)["train"].schedule.peak == (1e-5, 1e-2)[first["chosen"]]
    assert not (workdir / "runs/.sft@Garden.grid").exists()
    results = json.loads((workdir / "results/sft/results.json").read_text())
    assert results["seeds"] == [0, 1] and list(results["sets"]) == ["Garden"]
    assert all(state.word == "current" for name, state in jobs.states(made, workdir).items() if name != "report")
    # What is finished stays as it is, with what was noted of it, when its last checkpoint is made again.
    shutil.rmtree(workdir / "runs/sft@Garden/checkpoints/4")
    jobs.train(made, workdir)
    assert {key: manifest(workdir, "sft@Garden")[key] for key in ("chosen", "tried", "selected", "params_sha256")} == {
        key: first[key] for key in ("chosen", "tried", "selected", "params_sha256")
    }


def test_together_it_is_one_run_and_from_it_each_set_goes_on_by_itself(tuned: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "road"
    shutil.copytree(tuned, workdir)
    both = {**SFT, "sets": ("Garden", "Books"), "together": True, "select": "last"}
    each = {**SFT, "start": "both", "sets": ("Garden",), "sft": {"objective": "language-model"}, "select": "nll"}
    jobs.run(config({"cpt": {}, "both": both, "each": each}, both={"run": "both"}, each={"run": "each"}), workdir)
    assert same(params(workdir, "each@Garden", 0), params(workdir, "both"))
    assert set(manifest(workdir, "each@Garden")["nll_by_step"]) == {"2", "4"}
    results = json.loads((workdir / "results/both/results.json").read_text())
    assert sorted(results["sets"]) == ["Books", "Games", "Garden"], "one run serves all sets"


def test_patience_stops_a_run_that_is_no_better_and_it_stays_so(tuned: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "road"
    shutil.copytree(tuned, workdir)
    # A rate at which nothing is learned any more: the first checkpoint is the best.
    train = {"steps": 8, "schedule": {"peak": 1e-9, "warmup": 0.0}}
    run = {**SFT, "sets": ("Garden",), "train": train, "select_from": (0.25, 0.5, 0.75), "patience": 1}
    made = config({"cpt": {}, "sft": run}, sft={"run": "sft"})
    jobs.run(made, workdir, ["runs/sft@Garden"])
    found = manifest(workdir, "sft@Garden")
    assert (found["step"], found["stopped_early_of"], found["selected"]) == (4, 8, 2)
    assert list(found["ndcg@10_by_step"]) == ["2", "4"]
    jobs.train(made, workdir)
    assert manifest(workdir, "sft@Garden") == found and jobs.state(made, workdir, "runs/sft@Garden").word == "current"
