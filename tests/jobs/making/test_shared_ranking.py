"""What several processes rank together is what one ranks: the same bits."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.errors import UserError
from cprec_jax.jobs.making import shared_ranking
from cprec_jax.parallel import processes
from cprec_jax.train.open import LoadedModel
from cprec_jax.workdir import pieces_directory, result_directory
from tests import road
from tests import run_jobs as jobs
from tests.conftest import ROOT
from tests.processes import environment, launched_together


class InTurn(processes.Others):
    """Other processes whose work this one does when it is asked for their answers."""

    def __init__(self, count: int, answer: processes.Answer, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        self._count, self._answer, self._monkeypatch = count, answer, monkeypatch
        self.requests: list[Any] = []

    def __len__(self) -> int:
        return self._count - 1

    def ask(self, request: Any) -> int:
        self.requests.append(json.loads(json.dumps(request)))
        return len(self.requests) - 1

    def check(self, number: int) -> None:
        pass

    def answers(self, number: int) -> list[Any]:
        answers = []
        for process in range(1, self._count):
            with self._monkeypatch.context() as patch:
                patch.setattr(processes, "index", lambda process=process: process)
                patch.setattr(processes, "count", lambda: self._count)
                answers.append(self._answer(self.requests[number], lambda: None))
        return answers


def arrays_of_cells(workdir: Path) -> dict[str, dict[str, bytes]]:
    arrays = {}
    for path in sorted(workdir.glob("cells*/*/*/arrays.npz")):
        with np.load(path) as file:
            arrays[str(path.parent.relative_to(workdir))] = {key: file[key].tobytes() for key in file.files}
    return arrays


def by_several(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """From now on the job `evaluate` is done by so many processes."""

    def by_first_with_others(function: Callable[[Any], object], answer: processes.Answer) -> None:
        function(InTurn(count, answer, monkeypatch))

    monkeypatch.setattr(processes, "by_first_with_others", by_first_with_others)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rule": "validation", "temperature": "validation", "validation_users": 5},
        {"pmi": "validation", "temperature": "validation", "validation_users": 5},
        {"pmi": 0.5},
        {"ranks_to": 8, "beam": 2, "temperature": "validation", "validation_users": 5},
        {"rule": "mean", "sets": ("Books", "Games")},
        {"rule": "sum", "protocols": ("u20",)},
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [2, 7])
def test_several_rank_what_one_ranks(
    evaluated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, changes: dict[str, Any]
) -> None:
    """Also where there are more processes than batches."""
    monkeypatch.setattr(EvaluateSpec, "__post_init__", lambda _: None)  # the catalogue is smaller than ranks_to may be
    changes = {**changes, "batch_users": 3}
    one, _ = evaluated(**changes)
    expected = arrays_of_cells(tmp_path)
    by_several(monkeypatch, count)
    together, _ = evaluated(**changes)
    assert arrays_of_cells(tmp_path) == expected and expected
    assert json.dumps(together["sets"]) == json.dumps(one["sets"])
    assert together["scoring_rule"] == one["scoring_rule"]
    assert not list(tmp_path.glob("cells/*/.*")), "no pieces are left"


def test_what_another_attempt_left_is_removed_and_not_read(
    evaluated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(batch_users=3)
    expected = arrays_of_cells(tmp_path)
    by_several(monkeypatch, 2)
    left = pieces_directory(tmp_path / "cells/model/Books.seed-0", "0123456789abcdef")
    evaluate = shared_ranking.collect_by_all

    def leaving(*arguments: Any) -> Any:
        (left / "process-2").mkdir(parents=True)
        (left / "process-2" / shared_ranking.PIECES).write_bytes(b"of a killed process")
        return evaluate(*arguments)

    monkeypatch.setattr("cprec_jax.jobs.making.evaluate.collect_by_all", leaving)
    evaluated(batch_users=3)
    assert arrays_of_cells(tmp_path) == expected and not left.exists()


def test_scores_of_another_process_that_are_not_finite_are_refused(
    evaluated: Any, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_several(monkeypatch, 2)
    ranked = shared_ranking._ranked

    def broken(method: Any, data: Any, row: str, share: Any, *rest: Any) -> Any:
        if share.process:
            raise UserError(f"{row} on {data.name}: score nan")
        return ranked(method, data, row, share, *rest)

    monkeypatch.setattr(shared_ranking, "_ranked", broken)
    with pytest.raises(UserError, match="model on Books: score nan"):
        evaluated(batch_users=3)
    assert not list(tmp_path.glob("cells/*/*")), "neither a cell nor pieces"


SECTION: dict[str, Any] = {
    "names": {
        "both": {"kind": "ensemble", "members": ["cpt", "popularity"]},
        "popularity": {"kind": "popularity"},
        "cpt": {"kind": "checkpoint"},
        "half": {"kind": "checkpoint", "fraction": 0.5},
        "best": {"kind": "checkpoint", "step": "validation"},
        "untrained": {"kind": "untrained"},
    },
    "protocols": ["full", "u20"],
    "max_users": 30,
    "validation_users": 10,
    "prompt_tokens": 60,
    "bootstrap": 20,
    "rule": "validation",
    "batch_users": 4,
    "leak_probe": 4,
}
FAILING = """
import sys
from cprec_jax import cli
from cprec_jax.errors import UserError
from cprec_jax.parallel import processes
from cprec_jax.methods import title_model

score = title_model.TitleModel.score

def failing(*arguments, **named):
    if processes.index() == 1:
        raise {error}
    return score(*arguments, **named)

title_model.TitleModel.score = failing
sys.exit(cli.command())
"""


@pytest.fixture(scope="module")
def trained(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("trained")
    for part in ("corpus", "rows"):
        (workdir / part).symlink_to(tiny_rows / part)
    jobs.train(config(), workdir)
    return workdir


def config(**changes: Any) -> dict[str, Any]:
    made = road.config(train={"steps": 4, "milestones": [0.5], "checkpoint_every": 2})
    return {**made, "evaluate": {**SECTION, **changes}}


def command_on(trained: Path, workdir: Path, **changes: Any) -> list[str]:
    """A work directory with the same run, and the command that evaluates it."""
    workdir.mkdir()
    for part in ("corpus", "rows", "runs"):
        (workdir / part).symlink_to(trained / part)
    text = json.dumps(config(**changes))
    (workdir / "config.py").write_text(f"import json\ndef get_config():\n    return json.loads({json.dumps(text)})\n")
    return ["evaluate", f"--config={workdir / 'config.py'}", f"--workdir={workdir}"]


def record_of(workdir: Path, name: str) -> dict[str, Any]:
    record = json.loads((result_directory(workdir, "test", name) / "results.json").read_text())
    return {key: value for key, value in record.items() if key not in ("cost", "environment")}


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(trained: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, "launch.py", *command_on(trained, one)], cwd=ROOT, env=environment(2), check=True)
    job = command_on(trained, two)
    left = pieces_directory(two / "cells/cpt/Books.seed-0", "0123456789abcdef") / "process-2"
    left.mkdir(parents=True)
    (left / shared_ranking.PIECES).write_bytes(b"of a killed process")
    logs = launched_together(job)
    assert arrays_of_cells(two) == arrays_of_cells(one)
    for name in SECTION["names"]:
        assert record_of(two, name) == record_of(one, name)
        files = [result_directory(workdir, "test", name) / "ranks.parquet" for workdir in (one, two)]
        assert files[0].read_bytes() == files[1].read_bytes()
    for process, (log, users) in enumerate(zip(logs, (16, 14), strict=True)):  # of eight batches of four
        for row in ("cpt", "half", "best", "untrained"):
            for name in ("Books", "Games", "Garden"):
                said = f"evaluate: {row} on {name}: process {process + 1} of 2 ranked {users} of 30 users"
                assert log.count(said) == 1, log
    assert not list(two.glob("cells/*/.*")), "no pieces are left"


@pytest.mark.slow
@pytest.mark.parametrize(("error", "status"), [("UserError('score nan')", 2), ("ZeroDivisionError('score nan')", 1)])
def test_a_failure_of_the_second_process_is_one_line(trained: Path, tmp_path: Path, error: str, status: int) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(error=error))
    names = {"cpt": SECTION["names"]["cpt"]}
    logs = launched_together(command_on(trained, tmp_path / "work", names=names), status=status, by=str(script))
    if status == 2:
        for log in logs:
            assert [line for line in log.splitlines() if line.startswith("error: ")] == ["error: score nan"]
            assert "Traceback" not in log
    else:
        assert "ended, because process 2 failed: score nan" in logs[0] and "Traceback" not in logs[0]
        assert "ZeroDivisionError: score nan" in logs[1]
    assert not list(tmp_path.glob("work/cells/cpt/.*")) and not (tmp_path / "work/results/cpt").exists()
