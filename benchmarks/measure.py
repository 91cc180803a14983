"""Wall time, peak memory and peak disk of a command run in a process of its own, and the rows a benchmark writes."""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Run:
    """Seconds of the clock and of all cores; MiB of the largest resident set (the process's, or its largest child's)
    and of the disk."""

    seconds: float
    cpu_seconds: float
    memory_mib: float
    disk_mib: float


def run(command: Sequence[str], writes_to: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Run to the end; anything but exit code 0 is a RuntimeError with the last of what the command printed.

    The files below `writes_to` are added up once a second; the largest sum is `disk_mib`.
    """
    ended = threading.Event()
    largest = [0]

    def watch() -> None:
        while not ended.wait(1.0):
            largest[0] = max(largest[0], folder_bytes(writes_to))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{output[-4000:]}")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return Run(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        memory_mib=usage.ru_maxrss / unit,
        disk_mib=max(largest[0], folder_bytes(writes_to)) / 2**20,
    )


def folder_bytes(folder: Path) -> int:
    """The sizes of all files below a folder, which may be written to meanwhile."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(where, name)).st_size
            except FileNotFoundError:
                continue
    return total


def machine() -> str:
    """One line for a table's caption."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


@dataclass
class Results:
    """The rows of `--json`; each is printed when it is added."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, against: str, detail: str) -> None:
        self.rows.append({"name": name, "value": value, "unit": unit, "against": against, "detail": detail})
        shown = f"{value:,.3f}" if abs(value) >= 0.01 else f"{value:.3g}"
        print(f"{name:38} {shown:>14} {unit:14} against {against or 'nothing'}: {detail}", flush=True)

    def write(self, path: Path | None) -> None:
        if path is not None:
            path.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")
