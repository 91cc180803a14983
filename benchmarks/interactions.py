"""Interactions of a made-up platform as CSV files, shaped like Amazon 2023 and written as a stream: no size sits in
memory.

Four domains (three to pre-train on, one downstream) that share their users; every second user is in a domain, with 10
interactions on average there (log-normal: most have few, some have hundreds); one item for every 12 interactions,
popularity a power law, as in Amazon 2023 (571 million reviews, 48 million items); 2 % of the lines are exact
duplicates; titles of 3 to 12 words, some with HTML entities.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

ROLES = {"Books": "pretrain", "Kitchen": "pretrain", "Music": "pretrain", "Games": "downstream"}
ITEM_SHARE = 12
MEAN_LENGTH = 10.0
DUPLICATES = 0.02
START, SECONDS = 1_350_000_000, 10 * 365 * 86_400
USERS_PER_CHUNK = 100_000
TITLES_PER_CHUNK = 200_000
ALPHABET = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", np.uint8)
UNQUOTED = pyarrow.csv.WriteOptions(quoting_style="none")


def generate(folder: Path, total: int, seed: int = 0) -> None:
    """Write DOMAIN.csv (user_id, item_id, timestamp) and DOMAIN_items.csv (item_id, title); `total` interactions over
    all domains."""
    folder.mkdir(parents=True, exist_ok=True)
    per_domain = total // len(ROLES)
    for domain, name in enumerate(ROLES):
        n_items = max(per_domain // ITEM_SHARE, 10)
        _write(folder / f"{name}.csv", _interactions(domain, per_domain, n_items, seed))
        _write(folder / f"{name}_items.csv", _items(domain, n_items, seed))


def _write(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    first = next(batches)
    with pyarrow.csv.CSVWriter(path, first.schema, write_options=UNQUOTED) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


def _codes(prefix: str, numbers: np.ndarray, digits: int) -> pa.Array:
    """Ids such as AQ2Z7... : `prefix` and `digits` characters in base 32, scrambled so that neighbours do not look
    alike."""
    scrambled = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    text = np.empty((len(numbers), len(prefix) + digits), np.uint8)
    text[:, : len(prefix)] = np.frombuffer(prefix.encode(), np.uint8)
    for digit in range(digits):
        text[:, len(prefix) + digit] = ALPHABET[
            ((scrambled >> np.uint64(64 - 5 * (digit + 1))) & np.uint64(31)).astype(np.int64)
        ]
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * text.shape[1]
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(text))


def _interactions(domain: int, total: int, n_items: int, seed: int) -> Iterator[pa.RecordBatch]:
    written, chunk = 0, 0
    while written < total:
        rng = np.random.default_rng((seed, domain, chunk))
        users = np.flatnonzero(rng.random(USERS_PER_CHUNK) < 0.5) + chunk * USERS_PER_CHUNK
        sigma = 1.1
        lengths = np.maximum(rng.lognormal(np.log(MEAN_LENGTH) - sigma**2 / 2, sigma, len(users)).round(), 1).astype(
            np.int64
        )
        user = np.repeat(users, lengths)
        item = (n_items * rng.random(len(user)) ** 3).astype(np.int64)  # rank r is met with density r^(-2/3)
        start = np.repeat(rng.random(len(users)), lengths)
        time = START + (SECONDS * np.minimum(start + rng.exponential(0.05, len(user)), 0.999)).astype(np.int64)
        again = np.flatnonzero(rng.random(len(user)) < DUPLICATES)
        order = rng.permutation(np.concatenate([np.arange(len(user)), again]))[: total - written]
        columns = [_codes("A", user[order], 12), _codes(f"B{domain}", item[order], 8), pa.array(time[order])]
        yield pa.RecordBatch.from_arrays(columns, ["user_id", "item_id", "timestamp"])
        written, chunk = written + len(order), chunk + 1


@functools.cache
def _vocabulary() -> list[str]:
    rng = np.random.default_rng(1)
    syllables = [c + v for c in "bcdfghklmnprstvz" for v in "aeiou"]
    return ["".join(rng.choice(syllables, rng.integers(1, 5))).capitalize() for _ in range(5000)] + [
        "&amp;",
        "-",
        "of",
        "the",
        "(2 Pack)",
    ] * 20


def _items(domain: int, n_items: int, seed: int) -> Iterator[pa.RecordBatch]:
    vocabulary = _vocabulary()
    for first in range(0, n_items, TITLES_PER_CHUNK):
        numbers = np.arange(first, min(first + TITLES_PER_CHUNK, n_items))
        rng = np.random.default_rng((seed, domain, first, 1))
        counts = rng.integers(3, 13, len(numbers))
        drawn = (len(vocabulary) * rng.random(counts.sum()) ** 2).astype(np.int64).tolist()
        ends = np.cumsum(counts).tolist()
        titles = [" ".join([vocabulary[w] for w in drawn[a:b]]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        yield pa.RecordBatch.from_arrays([_codes(f"B{domain}", numbers, 8), pa.array(titles)], ["item_id", "title"])
