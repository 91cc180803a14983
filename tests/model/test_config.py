import pytest

from cprec_jax.model.config import RopeScaling
from tests.model.tiny import tiny_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "multiple of num_kv_heads"),
        ({"head_dim": 7}, "must be even"),
        ({"num_layers": 0}, "num_layers 0"),
        ({"sliding_window": 0}, "sliding_window 0"),
        ({"sliding_layers": (True, True, True)}, "needs sliding_window"),
        ({"sliding_window": 4, "sliding_layers": (True,)}, "1 entries for num_layers 3"),
        ({"local_rope_theta": 100.0}, "needs sliding_layers"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


def test_impossible_scaling_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        RopeScaling(kind="linear", factor=0.5)
    with pytest.raises(ValueError, match="must be below"):
        RopeScaling(kind="llama3", factor=8.0, low_freq_factor=4.0, high_freq_factor=1.0)
