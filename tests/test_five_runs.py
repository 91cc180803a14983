"""A study in one config: five runs of two seeds, killed and resumed, every cell made once; then a row, a key and a
checkpoint change."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.config.root import make_config
from cprec_jax.jobs.status import status
from cprec_jax.report.training_metrics import read_metrics
from tests import road
from tests import run_jobs as jobs
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
SEEDS = 2


def study() -> dict[str, Any]:
    made = road.config(train={"steps": 20, "schedule": {"anneal": 0.0}, "milestones": [], "seeds": SEEDS})
    made["runs"] = {
        "cpt": {},
        "cosine": {"train": {"schedule": {"anneal": 0.97, "shape": "cosine"}}},
        "wsa-20": {"start": {"run": "cpt", "fraction": 0.8}, "train": {"steps": 4, "schedule": {"anneal": 1.0}}},
        "wsa-40": {"start": {"run": "cpt", "fraction": 0.6}, "train": {"steps": 8, "schedule": {"anneal": 1.0}}},
        "next": {"start": "cosine", "train": {"steps": 6}},
    }
    made["evaluate"] = {
        "max_users": 10,
        "validation_users": 5,
        "protocols": ["full"],
        "temperature": 1.0,
        "bootstrap": 20,
        "prompt_tokens": 60,
    }
    return {**made, "export": {"runs": ["wsa-20"]}}


NAMES = {f"runs/{name}{ending}" for name in ("cpt", "cosine", "wsa-20", "wsa-40", "next") for ending in ("", ".seed-1")}


def lines(config: dict[str, Any], workdir: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    status(make_config(config), workdir, as_json=True)
    return {line["name"]: line for line in json.loads(capsys.readouterr().out)["artefacts"]}


def made(text: str) -> list[str]:
    return re.findall(r"^run: \w+: \S*/((?:runs|results|export|rows)/\S+|corpus) is made now", text, re.MULTILINE)


def run(workdir: Path, config: dict[str, Any], kill_after: str | None = None) -> str:
    file = workdir.parent / "config.py"
    file.write_text(f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(config))})\n")
    command = [sys.executable, "launch.py", "run", f"--config={file}", f"--workdir={workdir}"]
    log = workdir.parent / "log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=stream, stdout=subprocess.DEVNULL, env={**os.environ, "XLA_FLAGS": ""}
        )
        deadline = time.monotonic() + 900
        while process.poll() is None and time.monotonic() < deadline:
            if kill_after is not None and (workdir / kill_after).exists():
                process.send_signal(signal.SIGKILL)
            time.sleep(0.02)
        process.kill()
    text = log.read_text()
    assert process.wait() == (-9 if kill_after is not None else 0), text[-3000:]
    return text


def test_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir, config = tmp_path / "work", study()
    run(workdir, config, kill_after="runs/cosine/checkpoints/5")
    half = lines(config, workdir, capsys)
    assert (
        half["runs/cpt"]["state"] == half["runs/cpt.seed-1"]["state"] == "current"
        and half["runs/cosine"]["state"] == "missing"
    )
    assert "goes on from step" in half["runs/cosine"]["reason"]
    text = run(workdir, config)
    again = made(text)
    assert len(again) == len(set(again)) and NAMES - set(again) == {"runs/cpt", "runs/cpt.seed-1"}
    found = lines(config, workdir, capsys)
    assert {line["state"] for line in found.values()} == {"current"} and found.keys() >= NAMES
    assert made(run(workdir, config)) == []

    params = {name: json.loads((workdir / name / "manifest.json").read_text())["params_sha256"] for name in NAMES}
    assert len(set(params.values())) == len(NAMES), "every run of every seed is another"
    results = {
        name: json.loads((workdir / "results" / name / "results.json").read_text())
        for name in ("cpt", "wsa-40", "next")
    }
    assert all(result["seeds"] == [0, 1] for result in results.values())
    report = (workdir / "report/report.md").read_text()
    assert all(name.removeprefix("runs/") in report for name in NAMES if "seed" not in name)
    drawn = read_metrics(workdir)
    assert {f"runs/{run}" for run in drawn} == NAMES and all(len(records) > 1 for records in drawn.values())
    assert "(loss.png)" in report and (workdir / "report/loss.png").stat().st_size > 10_000, (
        "the curves of all runs, in one plot"
    )

    one_more = {**config, "runs": {**config["runs"], "long": {"start": "wsa-20", "train": {"steps": 2}, "seeds": 1}}}
    assert [name for name, line in lines(one_more, workdir, capsys).items() if line["would_be_made"]] == [
        *("runs/long", "results/long", "export/wsa-20", "report")
    ]
    changed = json.loads(json.dumps(config))
    changed["runs"]["cosine"]["train"]["schedule"]["peak"] = 0.002
    after = lines(changed, workdir, capsys)
    assert {name for name, line in after.items() if line["state"] == "out of date"} == {
        "runs/cosine",
        "runs/cosine.seed-1",
    }
    assert after["runs/next"]["state"] == "waits" and after["runs/wsa-20"]["state"] == "current"

    for path in (workdir / "runs/cpt/checkpoints/12", workdir / "runs/wsa-40", workdir / "results/wsa-40"):
        shutil.rmtree(path)
    lost = lines(config, workdir, capsys)
    assert lost["runs/cpt"]["state"] == "pruned" and lost["runs/wsa-40"]["state"] == "missing"
    jobs.run(config, workdir)
    new = {name: json.loads((workdir / name / "manifest.json").read_text())["params_sha256"] for name in NAMES}
    assert new["runs/cpt"] == params["runs/cpt"] and (workdir / "runs/cpt/checkpoints/12").is_dir()
    assert new["runs/wsa-40.seed-1"] == params["runs/wsa-40.seed-1"]
