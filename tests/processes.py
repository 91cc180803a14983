"""Processes of CPU devices that work together, as on several hosts."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT

PATIENCE = 600  # seconds for what takes ten on an idle machine


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    """For processes of so many devices each. They share what is compiled with all tests (tests/conftest.py)."""
    return {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }


def together(arguments: list[str], last: list[list[str]], status: int = 0) -> list[str]:
    """Run two processes of two devices each; `last[i]` are the further arguments of process i. What both wrote to
    stderr.

    Both must end with `status`.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments, *last[i]], cwd=ROOT, env=environment(2), stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    try:
        errors = [process.communicate(timeout=500)[1] for process in processes]
    finally:
        for process in processes:  # where one hangs or the test is stopped, neither is left behind
            process.kill()
    assert [process.returncode for process in processes] == [status, status], errors
    return errors


def launched_together(arguments: list[str], status: int = 0, by: str = "launch.py") -> list[str]:
    """A job of `launch.py` (or of a script that calls its `main`) in two processes that find each other, each with a
    parent of its own.

    What both wrote to their logs.
    """
    port = free_port()
    workdir = Path(next(text for text in arguments if text.startswith("--workdir=")).removeprefix("--workdir="))
    logs = [workdir / f"logs/process-{i + 1}.log" for i in range(2)]
    before = [len(log.read_text()) if log.exists() else 0 for log in logs]
    together(
        [by, *arguments],
        [[f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}"] for i in (0, 1)],
        status,
    )
    return [log.read_text()[begin:] for log, begin in zip(logs, before, strict=True)]


def start(arguments: list[str], processes: int = 2, devices: int = 1) -> subprocess.Popen[str]:
    """The parent of a job in so many processes of so many devices each; 1: a process without a parent."""
    several = [f"--processes={processes}"] if processes > 1 else []
    command = [sys.executable, "launch.py", *arguments, *several]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(devices), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(parent: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what it said; it is given the time that a busy machine needs, and not left behind."""
    try:
        errors = parent.communicate(timeout=PATIENCE)[1]
    finally:
        parent.kill()
    return parent.returncode, errors


def workers(parent: subprocess.Popen[str]) -> list[int]:
    """The process ids of its workers, the first first."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    numbered = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in map(int, children)}
    of_process = {
        next((part for part in words if part.startswith(b"--process=")), b""): pid for pid, words in numbered.items()
    }
    return [of_process[number] for number in sorted(of_process)]


def wait_for(parent: subprocess.Popen[str], path: Path) -> None:
    """Until there is a file."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and parent.poll() is None:
        if path.exists():
            return
        time.sleep(0.01)
    parent.terminate()
    raise AssertionError(f"there is no {path}: {parent.communicate()[1]}")
