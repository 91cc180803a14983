"""Joining the processes of a job: found by jax on Cloud TPU pods, Slurm, Open MPI and JobSet, or named by hand."""

import importlib.util
import inspect
import os
from collections.abc import Mapping
from typing import Any

import jax

from cprec_jax.errors import UserError, one_line
from cprec_jax.launcher import step_file
from cprec_jax.parallel import processes

HEARTBEAT_S = 30  # how long a process may be silent before jax ends the others; jax's own default is 100
SHUTDOWN_S = 60  # how long a process that has finished waits for the others


def start(coordinator: str | None, count: str | None, process: str | None) -> None:
    """Join the other processes. Call before any other use of jax.

    All arguments, or none: without them jax finds the processes itself (Cloud TPU, Slurm, Open MPI, JobSet). Processes
    of CPU devices do without jax's compilation cache.

    Args:
      coordinator: HOST:PORT of process 0.
      count: the number of processes.
      process: the number of this one, counted from 0.

    Raises `UserError` for some of the three alone, and where the others cannot be joined.
    """
    given = [value is not None for value in (coordinator, count, process)]
    if any(given) and not all(given):
        raise UserError(
            "--coordinator, --processes and --process belong together; give all three, or only --processes or only "
            "--distributed"
        )
    try:
        if coordinator is None:
            jax.distributed.initialize(**_settings())
        else:
            assert count is not None and process is not None
            jax.distributed.initialize(coordinator, int(count), int(process), **_settings(), **_local(coordinator))
    except (ValueError, RuntimeError) as error:
        hint = "check --coordinator, --processes, --process" if any(given) else _hint(os.environ)
        raise UserError(f"the other processes cannot be joined ({one_line(error)[:200]}); {hint}") from error
    if jax.default_backend() == "cpu":
        # XLA (jaxlib 0.10.2) orders the collectives of a CPU program that it compiled, and not those of one that it
        # read back: two all-reduces at a time then meet the wrong one of the other process (docs/scaling.md).
        jax.config.update("jax_enable_compilation_cache", False)
    step_file.note(process=processes.index(), of=processes.count())


def _hint(environment: Mapping[str, str]) -> str:
    """What to do where jax did not find the other processes."""
    if "KUBERNETES_SERVICE_HOST" in environment and importlib.util.find_spec("kubernetes") is None:
        return (
            "on Kubernetes jax asks the cluster through a package: `pip install kubernetes` in the image, and let the "
            "service account read pods, jobs and services"
        )
    return (
        "jax knows Cloud TPU, Slurm (srun), Open MPI (mpirun) and JobSet; elsewhere give --coordinator=HOST:PORT "
        "--processes=N --process=I"
    )


def _settings() -> dict[str, Any]:
    """The timeouts that this version of jax supports."""
    settings = {"heartbeat_timeout_seconds": HEARTBEAT_S, "shutdown_timeout_seconds": SHUTDOWN_S}
    known = inspect.signature(jax.distributed.initialize).parameters
    return {name: value for name, value in settings.items() if name in known}


def _local(coordinator: str) -> dict[str, Any]:
    """Bind the coordinator to the loopback address where all processes are on one machine."""
    host, _, port = coordinator.rpartition(":")
    return {"coordinator_bind_address": f"127.0.0.1:{port}"} if host in ("127.0.0.1", "localhost") else {}
