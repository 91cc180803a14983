"""A row as the bytes of a `tf.train.Example`, which is what TFDS stores, without building protobuf objects.

Tokens arrive as packed varints, so that what occurs often (the catalogue's titles) is encoded once. Features stand in
the order of their
names: protobuf's own order of a map differs from process to process, and equal rows should be equal files.
Source: https://protobuf.dev/programming-guides/encoding/ and tensorflow/core/example/{example,feature}.proto.
"""

import functools

import numpy as np

_LENGTH_DELIMITED = {1: b"\x0a", 2: b"\x12", 3: b"\x1a"}  # field number -> tag


def pack_varints(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative integers below 2^31 as varints: uint8[total], and the place int64[n + 1] where each begins."""
    flat = np.ascontiguousarray(values, np.uint32).reshape(-1)
    size = np.ones(len(flat), np.uint8)
    largest = int(flat.max(initial=0))
    limits = [1 << bits for bits in (7, 14, 21, 28) if largest >> bits]  # few tokenizers need all of them
    for limit in limits:
        size += flat >= np.uint32(limit)
    starts = np.zeros(len(flat) + 1, np.int64)
    np.cumsum(size, out=starts[1:])
    out = np.empty(starts[-1], np.uint8)
    out[starts[:-1]] = (flat & 127) | np.where(size > 1, 128, 0)
    for byte in range(1, len(limits) + 1):
        longer = np.flatnonzero(size > byte)
        out[starts[longer] + byte] = ((flat[longer] >> (7 * byte)) & 127) | np.where(size[longer] > byte + 1, 128, 0)
    return out, starts


def example(tokens: bytes, lengths: bytes, items: bytes, loss: bytes, row: int) -> bytes:
    """One serialised row; all but `row` are packed varints (padding included; bytes 0 and 1 are their own varints)."""
    entries = (
        _entry(_ITEMS, items),
        _entry(_LENGTHS, lengths),
        _entry(_LOSS, loss),
        _entry(_ROW, _varint(row)),
        _entry(_TOKENS, tokens),
    )
    return _field(1, b"".join(entries))


def _entry(name: bytes, packed: bytes) -> bytes:
    """One entry of `Features.feature`: name (a field) -> Feature.int64_list."""
    return _field(1, name + _field(2, _field(3, _field(1, packed))))


def _field(number: int, payload: bytes) -> bytes:
    return _LENGTH_DELIMITED[number] + _size(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_size = functools.lru_cache(maxsize=1 << 16)(_varint)  # rows of one dataset are of much the same sizes
_ITEMS, _LENGTHS, _LOSS, _ROW, _TOKENS = (
    _field(1, name) for name in (b"items", b"lengths", b"loss", b"row", b"tokens")
)
