"""Any file of a finished work directory cut, emptied or removed, then each job: the right result, or one line that says
what to do."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_jax import cli
from tests import road
from tests import run_jobs as jobs

CONFIG = road.config(
    corpus={"synthetic": {"users": 80, "items": 30, "interactions": 15.0, "tastes": 4}},
    train={"steps": 4, "checkpoint_every": 2},
    evaluate={
        "names": {"popularity": {"kind": "popularity"}, "cpt": {"kind": "checkpoint"}},
        "protocols": ["full"],
        "max_users": 5,
    },
)
CONFIG["evaluate"] |= {"validation_users": 5, "bootstrap": 10}
JOBS = ("pack", "train", "evaluate", "export", "report", "run")
EXAMPLES = 200 if os.environ.get("CPREC_FUZZ") else 20


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("finished") / "road"
    workdir.mkdir()
    (workdir.parent / "config.py").write_text(
        f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(CONFIG))})\n"
    )
    jobs.run(CONFIG, workdir)
    return workdir


OF_JOB = {
    "pack": ("rows",),
    "train": ("parameters",),
    "evaluate": ("popularity", "cpt"),
    "export": ("weights", "tokenizer"),
    "report": (),
    "run": ("corpus", "rows", "parameters", "popularity", "cpt", "weights", "tokenizer"),
}


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_the_right_result_or_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    files = sorted(
        str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file() and "events" not in path.parts
    )
    folder = data.draw(st.sampled_from(sorted({"/".join(file.split("/")[:3]) for file in files})), label="folder")
    file = data.draw(st.sampled_from([file for file in files if file.startswith(folder)]), label="file")
    how = data.draw(st.sampled_from(["cut", "emptied", "removed"]), label="how")
    job = data.draw(st.sampled_from(JOBS), label="job")
    workdir = tmp_path / "copy"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(finished, workdir)
    if how == "removed":
        (workdir / file).unlink()
    else:
        content = (workdir / file).read_bytes()
        (workdir / file).write_bytes(content[: len(content) // 2 if how == "cut" else 0])
    capsys.readouterr()
    status = cli.main([job, f"--config={finished.parent / 'config.py'}", f"--workdir={workdir}"])
    told = capsys.readouterr().err
    assert status in (0, 2), told
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in told and len(errors) == (1 if status == 2 else 0), told
    if status == 0:
        for name in OF_JOB[job]:
            assert fact(workdir, name) == fact(finished, name), told


def fact(workdir: Path, name: str) -> object:
    """What must not come out otherwise: the corpus, the rows, the parameters, the figures, the exported files."""
    files = {"corpus": "corpus/manifest.json", "rows": "rows/cpt/manifest.json", "parameters": "runs/cpt/manifest.json"}
    keys = {"corpus": "corpus_hash", "rows": "rows_hash", "parameters": "params_sha256"}
    if name in files:
        return json.loads((workdir / files[name]).read_text())[keys[name]]
    if name in CONFIG["evaluate"]["names"]:
        result = json.loads((workdir / "results" / name / "results.json").read_text())
        return {key: values["protocols"] for key, values in result["sets"].items()}
    return (workdir / "export/cpt" / {"weights": "model.safetensors", "tokenizer": "tokenizer.json"}[name]).read_bytes()


@pytest.mark.parametrize("name", ["results.json", "ranks.parquet"])
def test_a_result_that_lost_a_file_is_made_again(finished: Path, tmp_path: Path, name: str) -> None:
    """The report makes nothing again, so it would leave the row out."""
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    (workdir / "results/cpt" / name).unlink()
    assert jobs.states(CONFIG, workdir)["results/cpt"].word == "out of date"
    jobs.run(CONFIG, workdir)
    assert (workdir / "results/cpt" / name).exists() and fact(workdir, "cpt") == fact(finished, "cpt")
