"""Gathering from flat ragged columns (`values`, `offsets`) without a Python loop."""

import numpy as np


def gather(values: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate `values[offsets[r]:offsets[r + 1]]` for every r of `rows`. Returns them and their offsets
    int64[len(rows) + 1]."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    out = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    index = np.arange(out[-1]) + np.repeat(starts - out[:-1], lengths)
    return values[index], out
