"""--distributed under Slurm and Open MPI, as far as their variables go: jax finds the processes, and each parent knows
which it has."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import processes, road
from tests.conftest import ROOT
from tests.train.test_processes import config_file


def slurm(job: int, process: int) -> dict[str, str]:
    nodes = {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2"}
    return {"SLURM_JOB_ID": str(job), **nodes, "SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}


def open_mpi(job: int, process: int) -> dict[str, str]:
    ranks = {name: str(process) for name in ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")}
    return {"OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2", **ranks}


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [slurm, open_mpi])
def test_processes_that_a_cluster_started(tmp_path: Path, cluster: Callable[[int, int], dict[str, str]]) -> None:
    number = random.SystemRandom().randrange(4096)  # jax makes the port of it
    job = [
        sys.executable,
        "launch.py",
        "prepare",
        config_file(tmp_path, road.CONFIG),
        f"--workdir={tmp_path / 'w'}",
        "--distributed",
    ]
    both = [
        subprocess.Popen(
            job, cwd=ROOT, env={**processes.environment(1), **cluster(number, i)}, stderr=subprocess.PIPE, text=True
        )
        for i in (0, 1)
    ]
    (first, said), (second, _) = map(processes.end, both)
    assert (first, second) == (0, 0), said
    assert "[1/2] 2 processes on 1 host, 2 cpu devices" in said
    assert (tmp_path / "w/corpus/manifest.json").exists()
    assert {path.name for path in (tmp_path / "w/logs").glob("*.log")} == {"process-1.log", "process-2.log"}
