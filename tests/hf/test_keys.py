import numpy as np
import pytest

from cprec_jax.hf import keys

CASES = [
    (keys.VECTOR, (5,), (5,)),
    (keys.TABLE, (7, 4), (7, 4)),
    (keys.LINEAR, (4, 6), (6, 4)),
    (keys.TO_HEADS, (4, 2, 3), (6, 4)),
    (keys.FROM_HEADS, (2, 3, 4), (4, 6)),
    (keys.HEAD_VECTOR, (2, 3), (6,)),
]


@pytest.mark.parametrize(("layout", "shape", "hf_shape"), CASES)
def test_there_and_back(layout, shape, hf_shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    moved = layout.to_hf(array)
    assert moved.shape == hf_shape == layout.hf_shape(shape)
    assert moved.flags.c_contiguous
    np.testing.assert_array_equal(layout.from_hf(moved, shape), array)


@pytest.mark.parametrize(("layout", "shape", "hf_shape"), CASES)
def test_slices_of_ours_are_slices_of_theirs(layout, shape, hf_shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    moved = layout.to_hf(array)
    inner = layout.order[layout.merged + 1] if layout.merged >= 0 else None
    index = tuple(slice(None) if axis == inner else slice(size // 2, None) for axis, size in enumerate(shape))
    part = moved[layout.hf_index(index, shape)]
    np.testing.assert_array_equal(layout.from_hf(part, array[index].shape), array[index])


def test_head_projections_mean_the_same():
    """x @ hf_weight.T, split into heads, is the einsum with our weight; and the other way round for the output."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(5, 4)), rng.normal(size=(4, 2, 3))
    hf_weight = keys.TO_HEADS.to_hf(weight)
    np.testing.assert_allclose((x @ hf_weight.T).reshape(5, 2, 3), np.einsum("td,dhk->thk", x, weight))
    o, out = rng.normal(size=(5, 2, 3)), rng.normal(size=(2, 3, 4))
    np.testing.assert_allclose(o.reshape(5, 6) @ keys.FROM_HEADS.to_hf(out).T, np.einsum("thk,hkd->td", o, out))
