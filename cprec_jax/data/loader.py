"""Rows -> batches, as a pure function of the step: the whole state of the data pipeline is the step number."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grain
import numpy as np

from cprec_jax.data import rows


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of every global batch this process loads: rows `index`, `index + count`, ... of it."""

    index: int = 0
    count: int = 1


def stream(directory: Path, shares: Mapping[str, float], seed: int, prefix: int = 0) -> grain.MapDataset:
    """An endless stream of expanded rows: each source shuffled anew every epoch, the sources mixed by `shares`.

    Element i depends on (rows, shares, seed, i) alone, so any slice of it can be read at any time by anyone. `prefix` is how many
    elements belong to an earlier phase with other shares; it only enters the seed, so that phases differ.
    """
    names = sorted(shares)
    datasets = []
    for index, name in enumerate(names):
        source = rows.open_split(directory, name)
        dataset = grain.MapDataset.source(source).seed(seed + 1_000_003 * index + 7_919 * (prefix > 0)).shuffle().repeat()
        datasets.append(dataset.map(functools.partial(rows.expand, source=index)))
    return datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, [shares[name] for name in names])


def batches(
    dataset: grain.MapDataset, global_batch: int, first_step: int, last_step: int, shard: Shard, workers: int = 0, threads: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of steps `first_step`..`last_step` - 1 (this process's rows of them): dict of arrays [global_batch / count, T].

    `workers` > 0 reads in that many processes (spawned: the caller needs a ``__main__`` guard and parsed absl flags); the order does
    not depend on it.
    """
    assert global_batch % shard.count == 0
    own = dataset[first_step * global_batch + shard.index : last_step * global_batch : shard.count]
    own = own.batch(global_batch // shard.count)
    iterator = own.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8 * threads))
    if workers:
        iterator = iterator.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterator)
