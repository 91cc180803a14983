"""Two processes of two CPU devices each, as on two hosts."""

import os
import socket
import subprocess
import sys

from tests.conftest import ROOT


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def together(arguments: list[str], last: list[list[str]], status: int = 0) -> list[str]:
    """Run two processes of two devices each; `last[i]` are the further arguments of process i. What both wrote to stderr.

    Both must end with `status`.
    """
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen([sys.executable, *arguments, *last[i]], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
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
    """A job of `launch.py` (or of a script that calls its `main`) in two processes that find each other. What both wrote to stderr."""
    port = free_port()
    return together([by, *arguments], [[f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}"] for i in (0, 1)], status)
