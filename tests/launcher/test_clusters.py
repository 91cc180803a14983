"""--distributed under Slurm, Open MPI, Cloud TPU and JobSet, as far as their variables go: jax finds the processes, and
each parent knows which it has."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import pytest
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster

from cprec_jax.errors import UserError
from cprec_jax.parallel import distributed
from tests import processes, road
from tests.conftest import ROOT
from tests.train.test_processes import config_file


def slurm(job: int, process: int) -> dict[str, str]:
    nodes = {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2"}
    return {"SLURM_JOB_ID": str(job), **nodes, "SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}


def open_mpi(job: int, process: int) -> dict[str, str]:
    ranks = {name: str(process) for name in ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")}
    return {"OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2", **ranks}


Recognised = tuple[str | None, int | None, int | None]  # coordinator, number of processes, which of them


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment of no cluster, in which names of hosts are known and no metadata server is asked."""
    clusters_own = ("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JOB_", "JAX_COORDINATOR")
    for name in [name for name in os.environ if name.startswith(clusters_own)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("socket.gethostbyname", lambda host: "10.0.0.1")
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: ("", 404))
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", False)
    return monkeypatch


def recognised(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> Recognised:
    """What `jax.distributed` makes of an environment, as it would start with it; nothing is started."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 5)[:3]


def test_nothing_is_recognised_where_there_is_no_cluster(bare: pytest.MonkeyPatch) -> None:
    assert recognised(bare, {}) == (None, None, None)


def test_slurm_is_recognised(bare: pytest.MonkeyPatch) -> None:
    several = slurm(7, 3) | {"SLURM_STEP_NODELIST": "node[04-05],other", "SLURM_NTASKS": "4"}
    assert recognised(bare, several) == ("node04:61447", 4, 3)


def test_open_mpi_is_recognised(bare: pytest.MonkeyPatch) -> None:
    assert recognised(bare, open_mpi(7, 1)) == ("127.0.0.1:61447", 2, 1)


def test_a_cloud_tpu_pod_is_recognised(bare: pytest.MonkeyPatch) -> None:
    """By the metadata of its virtual machines."""
    metadata = {"agent-worker-number": "2", "worker-network-endpoints": "a:b:10.0.0.1,a:b:10.0.0.2,a:b:10.0.0.3"}
    bare.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    bare.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (metadata.get(key, ""), 200))
    assert recognised(bare, {}) == ("10.0.0.1:8482", 3, 2)


def test_a_jobset_of_tpu_slices_is_recognised(bare: pytest.MonkeyPatch) -> None:
    """On GKE, by variables: two slices of two hosts each."""
    hosts = {"TPU_WORKER_HOSTNAMES": "train-slice-1-0.train,train-slice-1-1.train", "TPU_WORKER_ID": "1"}
    slices = {
        "MEGASCALE_COORDINATOR_ADDRESS": "train-slice-0-0.train",
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": "1",
    }
    bare.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    assert recognised(bare, {**hosts, **slices}) == ("train-slice-0-0.train:8482", 4, 3)


def test_a_jobset_of_gpu_hosts_is_recognised(bare: pytest.MonkeyPatch) -> None:
    """By what Kubernetes says of the pod's job; it is asked through the package `kubernetes`."""
    job = SimpleNamespace(
        metadata=SimpleNamespace(name="train-hosts-0", labels={"jobset.sigs.k8s.io/jobset-name": "train"}),
        spec=SimpleNamespace(parallelism=4),
    )
    cluster = clusters.K8sCluster
    bare.setitem(sys.modules, "kubernetes", kubernetes_module())
    for name, answer in {
        "_controller": SimpleNamespace(kind="Job"),
        "_job": job,
        "_pod": SimpleNamespace(),
    }.items():
        bare.setattr(cluster, name, lambda answer=answer: answer)
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.9", "JOB_COMPLETION_INDEX": "2"}
    assert recognised(bare, environment) == ("train-hosts-0-0.train:55527", 4, 2)


def kubernetes_module() -> Any:
    """A stand-in of the package, which answers nothing by itself."""
    module: Any = ModuleType("kubernetes")
    module.config = SimpleNamespace(load_incluster_config=lambda: None)
    module.client = SimpleNamespace(
        CoreV1Api=object, BatchV1Api=object, exceptions=SimpleNamespace(ApiException=RuntimeError)
    )
    return module


@pytest.mark.parametrize(
    ("environment", "hint"),
    [
        ({}, "jax knows Cloud TPU, Slurm (srun), Open MPI (mpirun) and JobSet; elsewhere give --coordinator"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.9"}, "`pip install kubernetes` in the image"),
    ],
)
def test_a_cluster_that_is_not_recognised(bare: pytest.MonkeyPatch, environment: dict[str, str], hint: str) -> None:
    def initialize(heartbeat_timeout_seconds: int = 0, shutdown_timeout_seconds: int = 0) -> None:
        raise ValueError("coordinator_address should be defined.")

    for name, value in environment.items():
        bare.setenv(name, value)
    bare.setattr(jax.distributed, "initialize", initialize)
    bare.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as raised:
        distributed.start(None, None, None)
    assert "cannot be joined (coordinator_address should be defined.)" in str(raised.value) and hint in str(
        raised.value
    )


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
