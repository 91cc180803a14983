"""Rows for tests, written as `pack` writes them: every row is two documents of 12 and 8 tokens, all the same number."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cprec_jax.rows import dataset as rows
from cprec_jax.rows.shards import PieceTable, ShardTask, write_shard

T = 32


def write(directory: Path, splits: Mapping[str, tuple[int, int]]) -> None:
    """`splits`: name -> (number of rows, the number its first row is filled with)."""
    shards = {}
    for name, (n, first) in splits.items():
        # Pieces 0..n-1: 10 tokens; n..2n-1: 8 tokens; 2n..3n-1: 2 tokens, the headers.
        numbers = np.arange(first, first + n)
        tokens = np.concatenate([np.repeat(numbers, 10), np.repeat(numbers, 8), np.repeat(numbers, 2)])
        offsets = np.concatenate([[0], np.cumsum(np.repeat([10, 8, 2], n))])
        row = np.arange(n)
        task = ShardTask(
            path=rows.shard_path(directory, name, 0),
            row_length=T,
            first_row=0,
            row_documents=np.full(n, 2),
            document_pieces=np.tile([2, 1], n),
            pieces=np.stack([row + 2 * n, row, row + n], axis=1).reshape(-1),
            n_items=2 * n,
            loss_below=2 * n,
            table=PieceTable.of(tokens, offsets),
        )
        shards[name] = [write_shard(task)]
    rows.write_info(directory, T, shards)
