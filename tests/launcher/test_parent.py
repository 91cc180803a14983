"""The parent on workers that are small scripts: who dies, what is shown, what is left, and with which code it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

PARENT = """
import sys
from pathlib import Path
from cprec_jax.errors import UserError
from cprec_jax.launcher import parent

parent.GRACE_S, parent.HANG_S, parent.PATIENCE_S = 0.3, 0.5, {2: 0.3, 75: 5.0}
script, workdir, *options = sys.argv[1:]
sys.argv[0] = script
given = dict(option.removeprefix("--").split("=") for option in options)
try:
    code = parent.run(["train", *options], given, Path(workdir))
except UserError as error:
    print("error:", error, file=sys.stderr)
    code = 2
assert "jax" not in sys.modules
sys.exit(code)
"""

WORKER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from cprec_jax.launcher.step_file import note
process = next((int(a.split("=")[1]) for a in sys.argv if a.startswith("--process=")), 0)
workdir = Path({workdir!r})

def say(text):
    print(text, file=sys.stderr, flush=True)

def save(step):
    (workdir / f"runs/cpt/checkpoints/{{step}}").mkdir(parents=True, exist_ok=True)

def forever():
    while True:
        time.sleep(0.01)

{body}
"""


def start(tmp_path: Path, body: str, *options: str) -> subprocess.Popen[str]:
    script = tmp_path / "launch.py"
    script.write_text(WORKER.format(workdir=str(tmp_path / "w"), body=body))
    command = [sys.executable, "-c", PARENT, str(script), str(tmp_path / "w"), *(options or ("--processes=2",))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def outcome(tmp_path: Path, body: str, *options: str) -> tuple[int, str, str]:
    parent = start(tmp_path, body, *options)
    out, errors = parent.communicate(timeout=60)
    return parent.returncode, out, errors


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_only_the_first_speaks_and_its_results_come_unchanged(tmp_path: Path) -> None:
    code, out, errors = outcome(
        tmp_path, "say(f'here is {process}'); print('[Gloo] connected'); print(f'table of {process}')"
    )
    assert code == 0 and out == "table of 0\n"
    assert [line for line in errors.splitlines() if "here" in line] == ["[1/2] here is 0"]
    assert (tmp_path / "w/logs/process-2.log").read_text() == "here is 1\n"


def test_one_process_has_a_parent_and_no_coordinator(tmp_path: Path) -> None:
    assert outcome(tmp_path, "say(' '.join(sys.argv[1:]))", "--processes=1") == (0, "", "train\n")


def test_a_mistake_that_all_make_is_said_once(tmp_path: Path) -> None:
    code, _, errors = outcome(tmp_path, "say('error: config.x: no'); sys.exit(2)")
    assert code == 2 and [line for line in errors.splitlines() if "error" in line] == [errors.splitlines()[-1]]


def test_a_mistake_of_the_second_alone_is_said(tmp_path: Path) -> None:
    body = (
        "if process == 1: say('error: disk'); sys.exit(2)\nsignal.signal(signal.SIGTERM, lambda *_: "
        "sys.exit(2))\nforever()"
    )
    code, _, errors = outcome(tmp_path, body)
    assert code == 2 and "[2/2] error: disk" in errors


@pytest.mark.parametrize(
    ("saves", "expected", "goes_on"), [(True, 75, "goes on from step 400"), (False, 1, "run the same command to go on")]
)
def test_the_first_death_ends_all_in_bounded_time_with_one_line(
    tmp_path: Path, saves: bool, expected: int, goes_on: str
) -> None:
    body = """
if process == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (workdir / "child").write_text(str(child.pid))
    forever()
note(process=1, of=2, step=412, training=True)
if %r: save(400)
while not (workdir / "child").exists(): time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
    began = time.monotonic()
    code, _, errors = outcome(tmp_path, body % saves)
    assert code == expected and time.monotonic() - began < 20
    line = errors.splitlines()[-1]
    assert line.startswith(
        f"process 2 of 2 died by signal 9 at step 412 (its log: {tmp_path / 'w/logs/process-2.log'}); the other was "
        "ended"
    )
    assert goes_on in line
    assert not lives(int((tmp_path / "w/child").read_text()))


def test_a_step_that_was_there_before_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "w/runs/cpt/checkpoints/400").mkdir(parents=True)
    code, _, errors = outcome(tmp_path, "save(400); os.kill(os.getpid(), signal.SIGKILL)")
    assert code == 1 and "goes on from step 400" in errors


def test_the_loss_of_a_peer_is_one_line_and_no_stack_trace(tmp_path: Path) -> None:
    body = """
if process == 1: forever()
say("F1129 13:17:23.249974 4471 client.h:80] Terminating process because the JAX distributed service "
    "detected fatal errors.")
say("    @ 0x7f42  absl::LogMessage::Flush()")
os.kill(os.getpid(), signal.SIGABRT)
"""
    code, _, errors = outcome(tmp_path, body)
    last = errors.splitlines()[-1]
    assert code == 1 and "absl" not in errors
    assert last.startswith("process 2 of 2 no longer answers, so process 1 of 2 ended, since another process is gone")


def test_the_traceback_of_an_error_of_ours_is_shown(tmp_path: Path) -> None:
    body = (
        "from cprec_jax.launcher.worker import FAILS\nif process == 0: say(FAILS); say('ZeroDivisionError'); "
        "os._exit(1)\nforever()"
    )
    code, _, errors = outcome(tmp_path, body)
    assert code == 1 and "[1/2] ZeroDivisionError" in errors and "process 1 of 2 ended with exit code 1" in errors


@pytest.mark.parametrize("again", [False, True])
def test_sigterm_is_passed_on_and_a_second_one_kills(tmp_path: Path, again: bool) -> None:
    body = "signal.signal(signal.SIGTERM, %s)\nsay('ready')\n(workdir / f'ready-{process}').touch()\nforever()"
    parent = start(tmp_path, body % ("signal.SIG_IGN" if again else "lambda *_: sys.exit(75)"))
    while not all((tmp_path / f"w/ready-{i}").exists() for i in (0, 1)):
        assert parent.poll() is None
        time.sleep(0.01)
    parent.send_signal(signal.SIGTERM)
    if again:
        time.sleep(0.3)
        assert parent.poll() is None
        parent.send_signal(signal.SIGTERM)
    parent.communicate(timeout=30)
    assert parent.returncode == (1 if again else 75)


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    body = """
from cprec_jax.launcher.worker import follow_parent
follow_parent()
(workdir / f"pid-{process}").write_text(str(os.getpid()))
forever()
"""
    parent = start(tmp_path, body)
    files = [tmp_path / f"w/pid-{i}" for i in (0, 1)]
    while not all(file.exists() and file.read_text() for file in files):
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.communicate(timeout=30)
    deadline = time.monotonic() + 20
    while any(lives(int(file.read_text())) for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_work_goes_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    body = "time.sleep(0.5)\nprint('table')\nsay('done')\ntime.sleep(0.5)\n(workdir / f'end-{process}').touch()"
    parent = start(tmp_path, body)
    assert parent.stdout is not None and parent.stderr is not None
    parent.stdout.close()
    parent.stderr.close()
    parent.wait(30)
    assert all((tmp_path / f"w/end-{i}").exists() for i in (0, 1))


def test_a_hang_is_said_once(tmp_path: Path) -> None:
    body = "note(process=process, of=2, step=7, training=True)\ntime.sleep(2.0)"
    code, _, errors = outcome(tmp_path, body)
    said = [line for line in errors.splitlines() if "no step for" in line]
    assert code == 0 and len(said) == 1 and "process 1 of 2 at step 7, process 2 of 2 at step 7" in said[0]


@pytest.mark.parametrize("option", ["--processes=0", "--processes=two"])
def test_a_number_that_is_none_is_a_mistake(tmp_path: Path, option: str) -> None:
    code, _, errors = outcome(tmp_path, "", option)
    assert code == 2 and f"{option}: expected the number of processes to start here" in errors


def test_the_worker_of_one_of_many_hosts(tmp_path: Path) -> None:
    """Under --coordinator the number is how many there are in all: one worker is started here."""
    options = ("--coordinator=10.0.0.1:5", "--processes=2", "--process=1")
    code, _, errors = outcome(tmp_path, "say('error: alone ' + ' '.join(sys.argv[2:]))", *options)
    assert code == 0 and errors == f"[2/2] error: alone {' '.join(options)}\n"
    assert (tmp_path / "w/logs/process-2.log").exists() and not (tmp_path / "w/logs/process-1.log").exists()
