"""Rows -> batches, as a pure function of the step: the whole state of the data pipeline is the step number."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np

from cprec_jax.rows import dataset as rows


@dataclass(frozen=True)
class Chosen:
    """Some rows of a source. (Grain's own shuffle and slice would choose others in every epoch.)"""

    source: Any
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.source[int(self.rows[index])]


def stream(
    directory: Path,
    shares: Mapping[str, float],
    seed: int,
    prefix: int = 0,
    limits: Mapping[str, int] | None = None,
    more: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
) -> grain.MapDataset:
    """An endless stream of expanded rows: each source shuffled anew every epoch, the sources mixed by `shares`.

    Element i depends on (rows, shares, seed, i) alone, so any slice of it can be read at any time by anyone. `prefix`
    is how many elements belong to an earlier phase with other shares; it only enters the seed, so that phases differ.
    `limits` (source -> rows) uses only so many rows of a source, chosen by `seed` alone, so that the choice for a
    smaller limit is part of that for a larger one. `more`: columns that an objective adds to a stored row (a function
    that worker processes can be sent).
    """
    names = sorted(shares)
    datasets = []
    for index, name in enumerate(names):
        source = rows.open_split(directory, name)
        if limits and name in limits:
            source = Chosen(source, np.random.default_rng(seed).permutation(len(source))[: limits[name]])
        dataset = (
            grain.MapDataset.source(source).seed(seed + 1_000_003 * index + 7_919 * (prefix > 0)).shuffle().repeat()
        )
        datasets.append(dataset.map(functools.partial(rows.expand, source=index, more=more)))
    return datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, [shares[name] for name in names])


@dataclass(frozen=True)
class _OfEveryBatch:
    """Rows `rows` of the global batches `first_step`..`last_step` - 1 of a stream, one batch after the other, as a
    Grain source."""

    dataset: grain.MapDataset
    rows: tuple[int, ...]
    global_batch: int
    first_step: int
    last_step: int

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * len(self.rows)

    def __getitem__(self, index: int) -> Any:
        step, row = divmod(index, len(self.rows))
        return self.dataset[(self.first_step + step) * self.global_batch + self.rows[row]]


def batches(
    dataset: grain.MapDataset,
    rows: Sequence[int],
    global_batch: int,
    first_step: int,
    last_step: int,
    workers: int = 0,
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of steps `first_step`..`last_step` - 1: dict of arrays [len(rows), T].

    `rows` are the numbers, within the global batch, of the rows that this process loads (`parallel.rows_held`), in the
    order of the arrays. `workers` > 0 reads in that many processes (spawned: the caller needs a ``__main__`` guard and
    parsed absl flags); the order does not depend on it.
    """
    assert rows and min(rows) >= 0 and max(rows) < global_batch, (rows, global_batch)
    source = _OfEveryBatch(dataset, tuple(map(int, rows)), global_batch, first_step, last_step)
    rows_of_process = grain.MapDataset.source(source).batch(len(rows))
    iterator = rows_of_process.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8 * threads))
    if workers:
        iterator = iterator.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterator)
