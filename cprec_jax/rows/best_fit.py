"""Best-fit-decreasing bin packing on counts instead of documents: its time depends on the row length, not on the number
of documents."""

import bisect

import numpy as np


def best_fit(lengths: np.ndarray, capacity: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Assign documents to rows so that no row holds more than `capacity` tokens.

    Documents of one length are exchangeable, so whole groups are placed at once: the n longest documents not yet placed
    go into the n fullest rows that still take them (best fit decreasing). Groups are shuffled by `rng`, so that the
    pairing is random.

    Args:
      lengths: int[n], tokens of each document, 1..capacity.
      capacity: tokens per row.

    Returns: row int64[n] of each document, and the number of rows.
    """
    assert len(lengths) == 0 or (lengths.min() >= 1 and lengths.max() <= capacity)
    row_of = np.zeros(len(lengths), np.int64)
    shuffled = rng.permutation(len(lengths))
    by_length = shuffled[np.argsort(-lengths[shuffled], kind="stable")]
    values, counts = np.unique(-lengths, return_counts=True)
    open_rows: dict[int, list[np.ndarray]] = {}  # free space -> ids of rows with that space, in chunks
    free: list[int] = []  # the keys of open_rows, ascending
    n_rows = position = 0

    def put(space: int, rows: np.ndarray) -> None:
        if space == 0 or len(rows) == 0:
            return
        if space not in open_rows:
            open_rows[space] = []
            bisect.insort(free, space)
        open_rows[space].append(rows)

    for length, count in zip((-values).tolist(), counts.tolist(), strict=True):
        left = count
        while left:
            index = bisect.bisect_left(free, length)
            if index < len(free):
                space = free[index]
                chunks = open_rows[space]
                rows = chunks.pop()
                if len(rows) > left:
                    chunks.append(rows[left:])
                    rows = rows[:left]
                if not chunks:
                    del open_rows[space], free[index]
            else:
                # Rows are opened for the whole group at once, each taking as many of this length as fit.
                space = capacity
                rows = np.arange(n_rows, n_rows + -(-left // (capacity // length)))
                n_rows += len(rows)
            fit = space // length if space == capacity else 1
            repeated = np.repeat(rows, fit)[:left]
            row_of[by_length[position : position + len(repeated)]] = repeated
            position += len(repeated)
            left -= len(repeated)
            if space == capacity:
                used = np.bincount(repeated - rows[0], minlength=len(rows)) * length
                for value in np.unique(used):
                    put(space - int(value), rows[used == value])
            else:
                put(space - length, rows)
    return row_of, n_rows
