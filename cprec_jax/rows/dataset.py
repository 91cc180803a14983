"""Rows on disk: a TFDS dataset of array_record files with one split per source, written (see `shards.py`) and read
without TensorFlow.

A row is stored compactly (`tokens` int32[T], `lengths` int32[documents], `items` int32[documents and items], `loss`
bytes[T], `row` its number) and expanded on load.
Anyone can read it: ``tfds.builder_from_directory(DIR).as_data_source(SPLIT)``.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax.artefact import file_sha256
from cprec_jax.errors import UserError, one_line

NAME = "cprec_rows"
VERSION = "1.1.0"
DESCRIPTION = """\
Users' behaviour as text, tokenised and packed for the pre-training of language models: every row holds whole documents
(a header and the titles one user chose, oldest first), one split per source: a domain, `mixed` (all domains of a user
merged by time) or `text` (plain text), and, where they were asked for, `titles` (bare titles), `related` (lists of
titles alike) and `shuffled` (items dealt out over users).

tokens: the row, padded with 0 behind the last document.
lengths: tokens of each document in it; documents never attend to each other.
items: the documents' items in order, each as its number in the corpus + 1; 0 where a document begins.
loss: 1 where a token counts as a target (the first of a document never does). row: its number in the split.
The tokenizer, the template and what the rows were made from are in manifest.json and tokenizer/ beside this file.
"""
HOMEPAGE = "https://arxiv.org/abs/2504.08949"
CITATION = """\
@article{ma2025cprec,
  title = {Large Language Model Empowered Recommendation Meets All-domain Continual Pre-Training},
  author = {Ma and others},
  journal = {arXiv preprint arXiv:2504.08949},
  year = {2025}
}"""


def features(row_length: int) -> Any:
    """The TFDS feature dictionary of rows of `row_length` tokens."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "tokens": tfds.features.Tensor(shape=(row_length,), dtype=np.int32),
            "lengths": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "items": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "loss": tfds.features.Tensor(shape=(row_length,), dtype=np.uint8),
            "row": np.int32,
        }
    )


def shard_path(directory: Path, split: str, shard: int) -> Path:
    """Where shard number `shard` of a split lies, as TFDS names it."""
    return directory / f"{shard_prefix(split)}-{shard:05d}"


def shard_prefix(split: str) -> str:
    """How the names of a split's shards begin."""
    return f"{NAME}-{split}.array_record"


def write_info(directory: Path, row_length: int, splits: Mapping[str, Sequence[tuple[int, int]]]) -> None:
    """Write what makes shards a TFDS dataset (dataset_info.json, features.json); `splits`: (rows, bytes of examples) of
    each shard."""
    import tensorflow_datasets as tfds

    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=NAME,
            version=tfds.core.Version(VERSION),
            data_dir=os.fspath(directory),
            module_name="cprec_jax.rows.dataset",
        ),
        description=DESCRIPTION,
        features=features(row_length),
        homepage=HOMEPAGE,
        citation=CITATION,
    )
    info.set_file_format("array_record")
    records = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[rows for rows, _ in shards],
            num_bytes=sum(size for _, size in shards),
            filename_template=tfds.core.ShardedFileTemplate(
                dataset_name=NAME,
                data_dir=directory,
                split=name,
                filetype_suffix="array_record",
                template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
            ),
        )
        for name, shards in splits.items()
    ]
    info.set_splits(tfds.core.splits.SplitDict(records))
    info.write_to_directory(os.fspath(directory))


def open_split(directory: Path, split: str) -> Any:
    """A random-access data source (`len`, `[i]`) of one split."""
    import tensorflow_datasets as tfds

    try:
        source = tfds.builder_from_directory(os.fspath(directory)).as_data_source(split=split)
        if len(source):
            source[len(source) - 1]
        return source
    except Exception as error:  # tfds and array_record raise many kinds for damaged files
        raise UserError(
            f"{directory}: split {split!r} cannot be read ({one_line(error)[:160]}); run `launch.py pack` again"
        ) from error


def check_shards(directory: Path, shards: Mapping[str, str]) -> None:
    """Compare every shard with its SHA-256 in the manifest: array_record reads on past a truncation without a word."""
    for name, expected in shards.items():
        if file_sha256(directory / name) != expected:
            raise UserError(
                f"{directory / name}: not the file that was packed (damaged, truncated or changed); run `launch.py "
                "pack` again"
            )


def expand(
    row: Mapping[str, Any], source: int = 0, more: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """One stored row of source number `source`, ready for a batch; more: what an objective adds to it.

    Returns `tokens`, `segment_ids` (1, 2, ... by document; 0 = padding), `positions` (from 0 in each document),
    int32[T]; `loss_mask` float32[T] (does this token count as a target); `source` and `row`, which name it in messages.
    """
    tokens, lengths = row["tokens"], row["lengths"]
    total = int(lengths.sum())
    starts = np.cumsum(lengths) - lengths
    segment_ids = np.zeros(len(tokens), np.int32)
    segment_ids[:total] = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
    positions = np.zeros(len(tokens), np.int32)
    positions[:total] = np.arange(total) - np.repeat(starts, lengths)
    loss_mask = row["loss"].astype(np.float32)
    # The first token of a document has nothing before it, so it is nobody's target.
    loss_mask[starts] = 0.0
    return {
        "tokens": tokens,
        "segment_ids": segment_ids,
        "positions": positions,
        "loss_mask": loss_mask,
        "source": np.int32(source),
        "row": np.int32(row["row"]),
        **(more(row) if more is not None else {}),
    }
