"""Several processes: found automatically on Cloud TPU pods and Slurm, or named by hand."""

import jax

from cprec_jax.errors import UserError, one_line


def start(coordinator: str | None, processes: str | None, process: str | None) -> None:
    """Join the other processes. Call before any other use of jax.

    Without arguments jax finds them itself (Cloud TPU, Slurm, Open MPI). By hand all three are needed: `coordinator` HOST:PORT of process
    0, the number of `processes`, and which `process` this is.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise UserError("--coordinator, --processes and --process belong together; give all three, or --distributed alone")
    try:
        if coordinator is None:
            jax.distributed.initialize()
        else:
            assert processes is not None and process is not None
            jax.distributed.initialize(coordinator, int(processes), int(process))
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the other processes cannot be joined ({one_line(error)[:200]}); check --coordinator, --processes, --process"
        ) from error
