"""The devices of the local workers of one machine: one GPU per worker, or the CPU."""

import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from cprec_jax.errors import UserError

CUDA_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")


def of_workers(processes: int, environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[dict[str, str]]:
    """The environment variables of each worker, in addition to the parent's.

    Raises `UserError` on a TPU host, and for fewer GPUs than workers.
    """
    platforms = environment.get("JAX_PLATFORMS", "")
    if processes == 1 or platforms == "cpu":
        return [{} for _ in range(processes)]
    if _installed("libtpu") and any(devices.glob("accel[0-9]*")):
        raise UserError(
            f"--processes={processes}: one process drives all TPU chips of a host; leave the option out, and on a pod "
            "start the command with --distributed on every host"
        )
    gpus = gpus_given(environment, devices) if any(map(_installed, CUDA_PLUGINS)) else []
    if gpus and len(gpus) < processes:
        raise UserError(
            f"--processes={processes}: there are {len(gpus)} GPUs, and each process needs one; ask for at most "
            f"{len(gpus)}"
        )
    return [{"CUDA_VISIBLE_DEVICES": gpus[i]} if gpus else {} for i in range(processes)]


def gpus_given(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """The NVIDIA GPUs that this process may use, in the notation of CUDA_VISIBLE_DEVICES."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    matches = (re.fullmatch(r"nvidia(\d+)", path.name) for path in (devices.iterdir() if devices.is_dir() else ()))
    count = sum(match is not None for match in matches)
    return [str(number) for number in range(count)]  # CUDA numbers visible GPUs from 0


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def threads_note(processes: int) -> str:
    """A warning where processes outnumber the CPU cores; empty where they do not."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{processes} processes share {cores} core{'s' * (cores > 1)}" if processes > cores else ""
