"""What processes must have in common, on what they tell of themselves; one line for each thing that they do not."""

from pathlib import Path
from typing import Any

import pytest

from cprec_jax.parallel.guards import differences, gpu_mistakes

WORKDIR = Path("w")


def record(**changes: Any) -> dict[str, Any]:
    alike = {"sections": {"train": "a", "model": "b"}, "rows": "r", "versions": {"jax": "0.10.2", "flax": "0.12.8"}}
    return {"host": "one", "sees_token": True, **alike, "devices": 4, "platform": "cpu", **changes}


def test_alike_is_no_mistake() -> None:
    assert differences([record(), record(host="two")], WORKDIR) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"sees_token": False, "rows": None},
            "--workdir: process 2 of 3 (two) does not see what process 1 (one) wrote into w;",
        ),
        (
            {"sections": {"train": "a", "model": "c"}},
            "config.model: differs between process 2 of 3 (two) and process 1;",
        ),
        (
            {"versions": {"jax": "0.11.0", "flax": "0.12.8"}},
            "jax is 0.11.0 in process 2 of 3 (two), and 0.10.2 in process 1;",
        ),
        ({"versions": {"jax": "0.10.2"}}, "flax is absent in process 2 of 3 (two), and 0.12.8 in process 1;"),
        ({"rows": "other"}, "w/rows/cpt: process 2 of 3 (two) sees other rows there than process 1;"),
        ({"devices": 2}, "process 2 of 3 (two) has 2 devices, process 1 has 4;"),
    ],
)
def test_each_difference_is_one_line_however_many_have_it(changes: dict[str, Any], said: str) -> None:
    other = record(host="two", **changes)
    (line,) = differences([record(), other, other], WORKDIR)
    assert line.startswith(said) and "\n" not in line


def test_gpus_that_slurm_gave_and_nobody_uses() -> None:
    environment = {"SLURM_GPUS_ON_NODE": "8"}
    alone = record(platform="gpu", devices=1)
    (line,) = gpu_mistakes([alone], environment)
    assert (
        "gave 8 GPUs and 1 are used" in line
        and "--ntasks-per-node=8" in line
        and "JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7" in line
    )
    assert (
        gpu_mistakes([alone] * 8, environment)
        == gpu_mistakes([alone], {})
        == gpu_mistakes([record()], environment)
        == []
    )
