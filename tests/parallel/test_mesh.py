import jax
import pytest
from jax.sharding import AxisType

from cprec_jax.errors import UserError
from cprec_jax.parallel.mesh import AXES, make_mesh


@pytest.mark.parametrize(
    ("asked", "shape"),
    [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 4, 2), (1, 4, 2)), ((1, 1, -1), (1, 1, 8))],
)
def test_sizes(asked, shape):
    mesh = make_mesh(*asked)
    assert tuple(mesh.shape[axis] for axis in AXES) == shape
    assert mesh.axis_types == (AxisType.Auto,) * 3


def test_one_device():
    assert make_mesh(devices=jax.devices()[:1]).size == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [((3, 1, 1), "does not fit 8"), ((-1, 3, 1), "does not fit 8"), ((-1, -1, 1), "only one"), ((0, 1, 1), "positive")],
)
def test_sizes_that_do_not_fit(asked, message):
    with pytest.raises(UserError, match=message):
        make_mesh(*asked)
