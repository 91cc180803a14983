"""Where something was computed: machine, versions and command, recorded with every result, so that a figure can be made
again."""

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "pyarrow", "transformers", "tokenizers", "duckdb")


def environment() -> dict[str, Any]:
    """`command` (empty outside `cprec` and `launch.py`), `machine`, `versions` and the `commit` (empty without git)."""
    import jax

    devices = jax.local_devices()
    return {
        "command": command(sys.argv),
        "commit": _commit(Path(__file__).parent),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": _memory_gib(),
            "devices": f"{len(devices)} {devices[0].device_kind}",
            "processes": jax.process_count(),
        },
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures depend on, as far as they are installed."""
    return {"python": platform.python_version(), **{name: version for name in PACKAGES if (version := _version(name))}}


def command(argv: list[str]) -> str:
    """The command line as one would type it again."""
    name = Path(argv[0]).name
    called = {"launch.py": ["python", *argv], "cprec": ["cprec", *argv[1:]]}
    return shlex.join(called.get(name, []))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):  # not a system that says so
        return None


def _commit(folder: Path) -> str:
    """The commit of a checkout, with `+` where files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        changed = "+" if git("status", "--porcelain", "--untracked-files=no", ".") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return ""
