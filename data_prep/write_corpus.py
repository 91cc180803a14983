"""Writes the corpus's files and computes its hash."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cprec_jax.artefact import file_sha256
from cprec_jax.corpus import as_numpy
from data_prep.engine import Relational


def write_items(engine: Relational, folder: Path) -> None:
    """items.parquet: one row per item, in the order of the item numbers."""
    engine.write_parquet(
        "SELECT c.item, c.item_id, c.domain, c.title, CAST(coalesce(n.train_count, 0) AS BIGINT) AS train_count "
        "FROM catalogue c LEFT JOIN train_counts n ON c.item = n.item ORDER BY c.item",
        folder / "items.parquet",
    )


def write_sequences(engine: Relational, folder: Path) -> None:
    """sequences/: everything sorted by user, so that the files do not depend on the engine's scheduling."""
    for domain, name, role in engine.rows("SELECT domain, name, role FROM sources ORDER BY domain"):
        split = "domain" if role == "pretrain" else "sft"
        rows = f"SELECT * FROM domain_rows WHERE domain = {domain} ORDER BY user"
        engine.write_parquet(rows, folder / "sequences" / split / f"{name}.parquet")
        for phase, eval_split in ((1, "valid"), (2, "test")):
            rows = (
                "SELECT user, domain, items, item_domains, times, target, target_time, untied, seen FROM target_rows "
                f"WHERE domain = {domain} AND phase = {phase} ORDER BY user"
            )
            engine.write_parquet(rows, folder / "sequences" / eval_split / f"{name}.parquet")
    engine.write_parquet("SELECT * FROM mixed_rows ORDER BY user", folder / "sequences" / "mixed" / "all.parquet")


def write_lists(path: Path, columns: dict[str, np.ndarray], list_name: str, lists: np.ndarray) -> None:
    """Parquet with flat columns and one column of equal-length lists [n, width]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    offsets = pa.array(np.arange(lists.shape[0] + 1, dtype=np.int32) * np.int32(lists.shape[1]))
    values = pa.ListArray.from_arrays(offsets, pa.array(lists.reshape(-1)))
    pq.write_table(
        pa.table({**{name: pa.array(column) for name, column in columns.items()}, list_name: values}),
        path,
        compression="zstd",
    )


def describe_files(
    folder: Path, known: Mapping[str, dict[str, int | str]] = MappingProxyType({})
) -> dict[str, dict[str, int | str]]:
    """Rows and SHA-256 of every Parquet file below `folder`, by relative path; what is `known` already is not read
    again."""
    paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.parquet"))}
    return {
        name: known.get(name) or {"rows": pq.read_metadata(path).num_rows, "sha256": file_sha256(path)}
        for name, path in paths.items()
    }


def corpus_hash(folder: Path, files: list[str]) -> str:
    """SHA-256 over the values of items, sequences, targets and candidates; not over how Parquet lays them out.

    Each column is a stream of bytes of its own (little-endian numbers, UTF-8 strings with their lengths, list lengths),
    so that row groups play no part. The oracle is no part of it: it is derived.
    """
    total = hashlib.sha256()
    for name in sorted(files):
        if name.startswith("oracle/"):
            continue
        columns: dict[str, hashlib._Hash] = {}
        with pq.ParquetFile(folder / name) as file:
            for batch in file.iter_batches(batch_size=65_536):
                for column, array in zip(batch.schema.names, batch.columns, strict=True):
                    _feed(array, column, columns)
        total.update(name.encode())
        for column in sorted(columns):
            total.update(column.encode() + columns[column].digest())
    return total.hexdigest()


def _feed(array: pa.Array, column: str, hashes: dict[str, "hashlib._Hash"]) -> None:
    if pa.types.is_list(array.type):
        _feed(pa.array(np.diff(as_numpy(array.offsets)).astype(np.int64)), column + ".length", hashes)
        _feed(array.flatten(), column + ".value", hashes)
        return
    if pa.types.is_string(array.type):
        _, offsets, text = array.buffers()
        offsets_n = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        _feed(pa.array(np.diff(offsets_n).astype(np.int64)), column + ".length", hashes)
        content = memoryview(text)[offsets_n[0] : offsets_n[-1]] if text else b""
    else:
        content = as_numpy(array).tobytes()
    hashes.setdefault(column, hashlib.sha256()).update(content)
