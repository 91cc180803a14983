"""One GPU per local worker, as many as there are, in the names that the parent was given."""

from pathlib import Path

import pytest

from cprec_jax.errors import UserError
from cprec_jax.launcher import devices


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with three GPUs, and jax for them."""
    monkeypatch.setattr(devices, "_installed", lambda package: package == "jax-cuda12-plugin")
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_gpu_each(cuda: Path) -> None:
    assert devices.of_workers(2, {}, cuda) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


def test_of_those_that_were_given(cuda: Path) -> None:
    given = {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    assert devices.of_workers(2, given, cuda) == [{"CUDA_VISIBLE_DEVICES": "GPU-a"}, {"CUDA_VISIBLE_DEVICES": "GPU-b"}]


def test_too_few_gpus_are_a_mistake(cuda: Path) -> None:
    with pytest.raises(UserError, match="there are 3 GPUs"):
        devices.of_workers(4, {}, cuda)


@pytest.mark.parametrize("environment", [{"JAX_PLATFORMS": "cpu"}, {"CUDA_VISIBLE_DEVICES": ""}])
def test_the_cpu_where_no_gpu_is_asked_for(cuda: Path, environment: dict[str, str]) -> None:
    assert devices.of_workers(4, environment, cuda) == [{}, {}, {}, {}]


def test_tpu_chips_belong_to_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "_installed", lambda package: package == "libtpu")
    (tmp_path / "accel0").touch()
    with pytest.raises(UserError, match="one process drives all TPU chips"):
        devices.of_workers(2, {}, tmp_path)
