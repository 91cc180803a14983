"""The front door: what a user types, and what each mistake gets."""

from pathlib import Path

import pytest

import launch

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg="x"):
    config = ConfigDict()
    config.corpus = {"sources": [{"name": "A", "role": "pretrain", "adapter": "synthetic"}]}
    config.train = {"steps": 3, "schedule": {"peak": 0.1}}
    config.text = {"vocab_size": 300}
    return config
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "my_config.py"
    path.write_text(CONFIG)
    return str(path)


def test_no_arguments_prints_help_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main([]) == 0
    assert "configs/quickstart.py --workdir=runs/quickstart" in capsys.readouterr().out


@pytest.mark.parametrize("job", [*launch.JOBS, "compare"])
def test_help_of_a_job_has_its_settings(capsys: pytest.CaptureFixture[str], job: str) -> None:
    assert launch.main([job, "--config=x", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(launch.HELP)
    assert ("--config.evaluate.sequential.patience=3" in out) == (job in ("evaluate", "run"))
    assert ("--config.corpus.k_core.pretrain=5" in out) == (job in ("prepare", "run"))
    assert ("config.mesh\n" in out) == (job in ("train", "run"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepair"], "'prepair' is not a job; did you mean 'prepare'?"),
        (["train", "--workdir=w"], "--config=FILE.py[:ARG] is missing"),
        (["train", "--config={config}"], "--workdir=DIR is missing"),
        (["train", "--config=configs/nothing.py", "--workdir=w"], "configs/nothing.py: no such file"),
        (["train", "--config={config}", "--workdir=w", "--wrokdir=x"], "--wrokdir: unknown option; did you mean 'workdir'?"),
        (["evaluate", "--config={config}", "--workdir=w", "--model=x"], "--model: belongs to the job generate; evaluate would ignore it"),
        (["train", "--config={config}", "--workdir=w", "--only=x"], "--only: belongs to the job evaluate"),
        (["train", "--config={config}", "--workdir=w", "extra"], "'extra': expected --option=value"),
        (["train", "--config={config}", "--workdir=w", "--config.trian.steps=3"], "unknown section; did you mean 'train'?"),
        (
            ["train", "--config={config}", "--workdir=w", "--config.train.stepps=3"],
            "config.train.stepps: unknown key; did you mean",
        ),
        (["train", "--config={config}", "--workdir=w", "--config.train.steps=many"], "config.train.steps: expected int, got str 'many'"),
        (["train", "--config={config}", "--workdir=w", "--config.train.epochs=2"], "set exactly one of steps, epochs, tokens"),
        (["train", "--config={config}", "--workdir=w", "--config.train=3"], "--config.train: is a section"),
        (["train", "--config={config}", "--workdir=w", "--config.train.schedule.warmup=0.95"], "may sum to at most 1"),
        (["train", "--config={config}", "--workdir={tmp}", "--config.text.vocab_size=10"], "launch.py pack"),
        (["pack", "--config={config}", "--workdir={tmp}"], "run `launch.py prepare` with the same --workdir first"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    arguments: list[str], message: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main([a.format(config=config, tmp=tmp_path) for a in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_overrides_are_typed_and_may_name_new_keys(config: str) -> None:
    loaded = launch.load_config(
        config, {"train.schedule.peak": "3e-4", "model.init_from": "some/dir", "train.mixture": "{'temperature': 0.5}"}
    )
    assert loaded["train"]["schedule"]["peak"] == 3e-4
    assert loaded["model"]["init_from"] == "some/dir"
    assert loaded["train"]["mixture"]["temperature"] == 0.5


def test_a_config_that_raises_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def get_config():\n    raise KeyError('size')\n")
    assert launch.main(["run", f"--config={path}", "--workdir=w"]) == 2
    assert "KeyError" in capsys.readouterr().err
