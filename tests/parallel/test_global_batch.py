"""Which rows of a global batch a process loads: those that its devices hold, wherever they are in the mesh."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, Sharding

from cprec_jax.parallel.global_batch import assemble, rows_held
from cprec_jax.parallel.mesh import AXES, make_mesh
from cprec_jax.parallel.rules import batch_sharding
from tests.processes import free_port, together

B = 16


class OfProcess:
    """A sharding as a process sees it whose devices are `numbers`."""

    def __init__(self, sharding: NamedSharding, numbers: Sequence[int]):
        self._map = {
            device: index for device, index in sharding.devices_indices_map((B,)).items() if device.id in numbers
        }

    def addressable_devices_indices_map(self, shape: tuple[int, ...]) -> Mapping[Any, Any]:
        assert shape == (B,)
        return self._map


def held_by(mesh: Mesh, numbers: Sequence[int]) -> list[int]:
    return rows_held(cast(Sharding, OfProcess(batch_sharding(mesh, B), numbers)), B).tolist()


def test_a_plain_mesh_gives_blocks() -> None:
    for mesh in (make_mesh(), make_mesh(2, 4), make_mesh(1, 8)):
        assert held_by(mesh, range(4)) == [*range(8)] and held_by(mesh, range(4, 8)) == [*range(8, 16)]
        assert held_by(mesh, range(8)) == [*range(16)]


def test_a_permuted_mesh_gives_what_lies_apart() -> None:
    mesh = Mesh(np.asarray(jax.devices())[[0, 4, 5, 1, 6, 2, 3, 7]].reshape(8, 1, 1), AXES)
    assert held_by(mesh, range(4)) == [0, 1, 6, 7, 10, 11, 12, 13]
    assert held_by(mesh, range(4, 8)) == [2, 3, 4, 5, 8, 9, 14, 15]


def test_a_tensor_axis_over_processes_gives_both_the_same() -> None:
    assert held_by(make_mesh(1, 1, 8), range(4)) == held_by(make_mesh(1, 1, 8), range(4, 8)) == [*range(16)]
    across = Mesh(np.asarray(jax.devices()).reshape(2, 4).T.reshape(4, 1, 2), AXES)  # tensor pairs 0-4, 1-5, ...
    assert held_by(across, range(4)) == held_by(across, range(4, 8)) == [*range(16)]
    inside = make_mesh(2, 2, 2)
    assert held_by(inside, range(4)) == [*range(8)] and held_by(inside, (0, 1, 6, 7)) == [0, 1, 2, 3, 12, 13, 14, 15]


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_one_process_gets_its_batch_as_it_is(shape: tuple[int, int, int]) -> None:
    sharding = batch_sharding(make_mesh(*shape), B)
    rows = np.arange(B * 3).reshape(B, 3)
    made = assemble({"x": rows}, rows_held(sharding, B), sharding, B)["x"]
    assert made.sharding == sharding
    np.testing.assert_array_equal(made, rows)


PROCESS = """
import sys
from pathlib import Path
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from cprec_jax.rows import loader
from cprec_jax.parallel import distributed
from cprec_jax.parallel.global_batch import assemble, rows_held
from cprec_jax.parallel.mesh import AXES, make_mesh
from cprec_jax.parallel.rules import batch_sharding

rows, coordinator, process = sys.argv[1:]
distributed.start(coordinator, "2", process)
stream = loader.stream(Path(rows), {"a": 0.75, "b": 0.25}, seed=3)
whole = list(loader.batches(stream, range(8), 8, 5, 7))
devices = np.asarray(jax.devices())
shuffled = [0, 2, 3, 1]
meshes = {
    "blocks": (make_mesh(), 4),
    "fsdp": (make_mesh(1, 4), 4),
    "permuted": (Mesh(devices[shuffled].reshape(4, 1, 1), AXES), 4),
    "tensor inside": (make_mesh(2, 1, 2), 4),
    "tensor across": (Mesh(devices.reshape(2, 2).T.reshape(2, 1, 2), AXES), 8),
    "tensor only": (make_mesh(1, 1, 4), 8),
}
for name, (mesh, count) in meshes.items():
    sharding = batch_sharding(mesh, 8)
    held = rows_held(sharding, 8)
    assert len(held) == count, (name, held)
    for local, expected in zip(loader.batches(stream, held.tolist(), 8, 5, 7), whole, strict=True):
        made = assemble({"tokens": local["tokens"]}, held, sharding, 8)["tokens"]
        gathered = multihost_utils.process_allgather(made, tiled=True)
        np.testing.assert_array_equal(gathered, expected["tokens"], err_msg=name)
jax.distributed.shutdown()
"""


@pytest.mark.slow
def test_two_processes_make_the_batch_of_one(tmp_path: Any) -> None:
    from tests.rows import made_rows

    made_rows.write(tmp_path, {"a": (50, 1000), "b": (20, 2000)})
    together(["-c", PROCESS, str(tmp_path), f"127.0.0.1:{free_port()}"], [["0"], ["1"]])
