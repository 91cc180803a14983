"""Prompts as padded arrays of few shapes, since each shape is compiled once. B rows, P tokens per row."""

from collections.abc import Sequence

import numpy as np

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # of padded prompts; longer ones get their own


def pad(prompts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32[B, P] of `prompts` (int32[p] each), padded with 0 on the right to one of `LENGTHS`, and the lengths
    int32[B]."""
    length_B = np.array([len(prompt) for prompt in prompts], np.int32)
    longest = int(length_B.max())
    tokens_BP = np.zeros((len(prompts), next((length for length in LENGTHS if length >= longest), longest)), np.int32)
    for row, prompt in zip(tokens_BP, prompts, strict=True):
        row[: len(prompt)] = prompt
    return tokens_BP, length_B


def fill_batch(rows: np.ndarray, size: int) -> np.ndarray:
    """The numbers of at most `size` rows as int64[size]: the last one repeats, so that every batch has one shape."""
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows))])
