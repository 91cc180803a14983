"""The front door: what a user types, and what each mistake gets."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cprec_jax import cli
from cprec_jax.config.root import make_config
from cprec_jax.errors import UserError
from cprec_jax.jobs.run import MAKE

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
    assert cli.main([]) == 0
    assert "configs/quickstart.py --workdir=runs/quickstart" in capsys.readouterr().out


@pytest.mark.parametrize("job", [*cli.JOBS, "compare"])
def test_help_of_a_job_has_its_settings(capsys: pytest.CaptureFixture[str], job: str) -> None:
    assert cli.main([job, "--config=x", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(cli.HELP)
    assert ("--config.evaluate.sequential.patience=3" in out) == (job in ("evaluate", "run", "status"))
    assert ("--config.corpus.k_core.pretrain=5" in out) == (job in ("prepare", "run", "status"))
    assert ("config.mesh\n" in out) == (job in ("train", "run", "status"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepair"], "'prepair' is not a job; did you mean 'prepare'?"),
        (["train", "--workdir=w"], "--config=FILE.py[:ARG] is missing"),
        (["train", "--config={config}"], "--workdir=DIR is missing"),
        (["train", "--config=configs/nothing.py", "--workdir=w"], "configs/nothing.py: no such file"),
        (
            ["train", "--config={config}", "--workdir=w", "--wrokdir=x"],
            "--wrokdir: unknown option; did you mean 'workdir'?",
        ),
        (
            ["evaluate", "--config={config}", "--workdir=w", "--model=x"],
            "--model: belongs to the job generate; evaluate would ignore it",
        ),
        (["train", "--config={config}", "--workdir=w", "--only=x"], "--only: belongs to the job evaluate"),
        (["train", "--config={config}", "--workdir=w", "extra"], "'extra': expected --option=value"),
        (
            ["train", "--config={config}", "--workdir=w", "--config.trian.steps=3"],
            "unknown section; did you mean 'train'?",
        ),
        (
            ["train", "--config={config}", "--workdir=w", "--config.train.stepps=3"],
            "config.train.stepps: unknown key; did you mean",
        ),
        (
            ["train", "--config={config}", "--workdir=w", "--config.train.steps=many"],
            "config.train.steps: expected int, got str 'many'",
        ),
        (
            ["train", "--config={config}", "--workdir=w", "--config.train.epochs=2"],
            "set exactly one of steps, epochs, tokens",
        ),
        (["train", "--config={config}", "--workdir=w", "--config.train=3"], "--config.train: is a section"),
        (["train", "--config={config}", "--workdir=w", "--config.train.schedule.warmup=0.95"], "may sum to at most 1"),
        (["train", "--config={config}", "--workdir={tmp}", "--config.text.vocab_size=10"], "launch.py pack"),
        (["pack", "--config={config}", "--workdir={tmp}"], "run `launch.py prepare` with the same --workdir first"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    arguments: list[str], message: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([a.format(config=config, tmp=tmp_path) for a in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_overrides_are_typed_and_may_name_new_keys(config: str) -> None:
    given = {
        "train.schedule.peak": "3e-4",
        "model.init_from": "some/dir",
        "train.mixture": "{'temperature': 0.5}",
        "train.seeds": "none",
    }
    made = make_config(
        cli.load_config(config, {**given, "text.tokenizer": "007", "pack.stages": "['cpt', 'sft']", "name": "12"})
    )
    assert made.train_section.schedule.peak == 3e-4 and made.train_section.seeds is None
    assert made.model.init_from == "some/dir" and made.text.tokenizer == "007" and made.name == "12"
    assert made.train_section.mixture.temperature == 0.5 and made.pack.stages == ("cpt", "sft")


def test_sections_in_a_list_are_overridden_by_their_names(config: str) -> None:
    made = make_config(
        cli.load_config(
            "configs/quickstart.py", {"corpus.sources.Games.k_core": "3", "train.epochs": "None", "train.steps": "4"}
        )
    )
    assert [source.k_core for source in made.corpus_section.sources] == [None, 3, None, None]
    assert made.train_section.epochs is None and made.train_section.steps == 4
    with pytest.raises(UserError, match=r"config.corpus.sources.Gamez: no such entry; did you mean 'Games'\?"):
        cli.load_config("configs/quickstart.py", {"corpus.sources.Gamez.k_core": "3"})


def test_all_mistakes_are_said_at_once(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [
        "--config.train.sead=1",
        "--config.evaluate.rule=best",
        "--config.model.dropout=2",
        "--config.corpus.k_core=x",
    ]
    assert cli.main(["run", "--config=configs/quickstart.py", f"--workdir={tmp_path}", *wrong]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == [
        "error: config.corpus.k_core: expected int or a section with the keys pretrain, downstream, got 'x'",
        "error: config.evaluate.rule: 'best' is not one of 'trie', 'sum', 'mean', 'validation'",
        "error: config.model: dropout 2.0 must lie in [0, 1)",
        "error: config.train.sead: unknown key; did you mean 'seed'?",
    ]


def test_a_config_that_raises_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def get_config():\n    raise KeyError('size')\n")
    assert cli.main(["run", f"--config={path}", "--workdir=w"]) == 2
    assert "KeyError" in capsys.readouterr().err


class Terminal(io.TextIOWrapper):
    """Standard output as a terminal or a pipe gives it to Python; `closed_after` bytes nobody reads any more."""

    def __init__(self, encoding: str, closed_after: int | None = None):
        class Raw(io.RawIOBase):
            held = b""

            def writable(self) -> bool:
                return True

            def write(self, data: Any) -> int:
                if closed_after is not None and len(self.held) + len(data) > closed_after:
                    raise BrokenPipeError(errno.EPIPE, "Broken pipe")
                Raw.held += bytes(data)
                return len(data)

        self.raw_stream = Raw()
        super().__init__(io.BufferedWriter(self.raw_stream), encoding=encoding)


def test_a_reader_that_has_had_enough_gets_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in ([], ["run", "--help"], ["evaluate", "-h"]):
        terminal = Terminal("utf-8", closed_after=10)
        monkeypatch.setattr(sys, "stdout", terminal)
        assert cli.main(argv) == 0
        terminal.raw_stream.write = len  # type: ignore[method-assign]  # what is left in the buffer goes nowhere
    assert capsys.readouterr().err == ""


def test_a_latin_1_terminal_shows_what_it_cannot_write_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal("latin-1"), Terminal("latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(cli, "HELP", "caf\u00e9 \u2013 \u65e5\n")
    assert cli.main([]) == 0
    assert cli.main(["\u65e5\u672c"]) == 2
    err.flush()
    assert out.raw_stream.held == b"caf\xe9 \\u2013 \\u65e5\n\n"
    assert (
        err.raw_stream.held.startswith(b"error: '\\u65e5\\u672c' is not a job")
        and err.raw_stream.held.count(b"\n") == 1
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_what_the_system_refuses_is_one_line(
    config: str, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / "a\nfile"))

    monkeypatch.setitem(MAKE, "prepare", refuse)
    assert cli.main(["prepare", f"--config={config}", f"--workdir={tmp_path}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"error: {tmp_path}/a file: {os.strerror(code)}")
    monkeypatch.setitem(
        MAKE, "prepare", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "a broken disk is no such thing"))
    )
    with pytest.raises(OSError, match="broken disk"):
        cli.main(["prepare", f"--config={config}", f"--workdir={tmp_path}"])


LIMITED = """
import resource, signal, sys
from cprec_jax import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_disk_that_is_full_while_training(workdir: Path) -> None:
    """Files may not grow beyond 20 kB, which a checkpoint does: the system refuses as it does on a full disk."""
    import json
    import subprocess

    from tests import road
    from tests.conftest import ROOT

    (workdir / "config.py").write_text(
        f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(road.CONFIG))})\n"
    )
    command = [sys.executable, "-c", LIMITED, "train", f"--config={workdir / 'config.py'}", f"--workdir={workdir}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    lines = ended.stderr.splitlines()
    assert ended.returncode == 2 and "cannot save" in lines[-1] and "Traceback" not in ended.stderr, ended.stderr
    told = [line for line in lines if not line.startswith("  ")]  # but for the table of parameters
    assert len(told) < 8, ended.stderr
