"""Rows as bytes are what TFDS itself would write."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.proto import tf_example_pb2

from cprec_jax.rows import dataset as rows
from cprec_jax.rows.serialise import example, pack_varints


@given(
    st.lists(st.integers(0, 2**31 - 1), min_size=8, max_size=8),
    st.lists(st.integers(1, 300), min_size=1, max_size=5),
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5),
    st.integers(0, 10**6),
)
@settings(max_examples=60)
def test_an_example_is_the_one_of_tfds(tokens: list[int], lengths: list[int], items: list[int], row: int) -> None:
    loss = [i % 2 for i in range(8)]
    features = rows.features(8)
    ragged = {
        name: np.array(values, np.int32)
        for name, values in (("tokens", tokens), ("lengths", lengths), ("items", items))
    }
    given_row = {**ragged, "loss": np.array(loss, np.uint8), "row": row}
    expected = example_serializer.ExampleSerializer(features.get_serialized_info()).serialize_example(
        features.encode_example(given_row)
    )
    packed = [pack_varints(ragged[name])[0].tobytes() for name in ("tokens", "lengths", "items")]
    payload = example(*packed, bytes(loss), row)
    assert len(payload) == len(expected)
    assert tf_example_pb2.Example.FromString(payload) == tf_example_pb2.Example.FromString(expected)


def test_varints_know_where_each_begins() -> None:
    values = np.array([0, 127, 128, 16_383, 16_384, 2**21, 2**28, 2**31 - 1])
    data, starts = pack_varints(values)
    assert np.diff(starts).tolist() == [1, 1, 2, 2, 3, 4, 5, 5] and len(data) == starts[-1]
    assert data[starts[2] : starts[3]].tolist() == [0x80, 0x01]
