"""Interactions from any prepared TFDS dataset with features for user, item, title and time, read without TensorFlow.

`interactions` is the directory of the dataset, as `tfds.builder_from_directory` takes it, or a folder with its
versions, of which the newest counts: with `root="~/tensorflow_datasets"` that is the dataset's name, such as
`movielens/1m-ratings`. `columns` names the features ("/" steps into nested ones), `tfds_split` the split of the
interactions, also a slice such as `train[:10%]`. Titles are a feature of every interaction, or those of a dataset of
their own under `items`, of which all splits are read. The dataset must be stored as array_record (`tfds build NAME
--file_format=array_record`).

TFDS says what the dataset holds; the records themselves are read from the array_record files some thousand at a time,
and only the wanted features are taken, which is much quicker than `as_data_source`.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from cprec_jax.config.build import nearest
from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.source import COLUMN_NAMES, Order, SourceSpec
from cprec_jax.errors import UserError, one_line
from data_prep.adapters.table import load_interactions, time_column
from data_prep.engine import Engine
from data_prep.rejects import SAMPLES, Rejects
from data_prep.source_files import target_path

INFO, FEATURES = "dataset_info.json", "features.json"
BATCH_RECORDS = 10_000
ALL = ""  # in place of a split: all of them
NOT_UTF8 = "malformed record: invalid encoding"


class TfdsAdapter:
    def __init__(self, spec: CorpusSpec):
        self.spec = spec
        self._opened = functools.cache(Dataset)

    def files(self, source: SourceSpec) -> dict[str, Path]:
        files = {}
        for which in ("interactions", *(["items"] if source.items else [])):
            dataset = self._dataset(source, which)
            for path in (dataset.path / INFO, dataset.path / FEATURES, *dataset.shards):
                files[f"{which}/{path.name}"] = path
        return files

    def load(self, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
        columns = {**COLUMN_NAMES, **source.columns.named()}
        dataset = self._dataset(source, "interactions")
        time, order = time_column(dataset.features, columns.get("time"), source.order)
        if order == "position" and source.time_unit:
            raise UserError(
                f"config.corpus.sources.{source.name}.time_unit: {dataset.path} has positions, which have no unit; "
                "leave it out"
            )
        wanted = {"user_id": columns["user"], "item_id": columns["item"], "time_text": time}
        titles = {"item_id": columns["item"], "title": columns["title"]}
        dataset.stage(wanted if source.items else {**wanted, "title": columns["title"]}, engine, rejects)
        rows = "SELECT place, user_id, item_id, time_text FROM staged"
        if source.items:
            load_interactions(dataset, domain, order, source.time_unit, engine, rejects, rows)
            dataset = self._dataset(source, "items")
            dataset.stage(titles, engine, rejects, "items")
        # An item's title stands in every record; differing ones are counted by the steps, as those of any source.
        usable = "item_id IS NOT NULL AND item_id <> ''"
        engine.execute(f"INSERT INTO raw_items SELECT DISTINCT {domain}, item_id, title FROM staged WHERE {usable}")
        if not source.items:
            load_interactions(dataset, domain, order, source.time_unit, engine, rejects, rows)
        elif n := engine.value(f"SELECT count(*) FROM staged WHERE NOT ({usable})"):
            rejects.bad_lines("item without id", n, str(dataset.path), [], "items")
        engine.execute("DROP TABLE staged")
        return order

    def _dataset(self, source: SourceSpec, which: str) -> "Dataset":
        where = f"config.corpus.sources.{source.name}"
        # a slice of the interactions still needs all titles
        split = ALL if which == "items" else source.tfds_split or "train"
        return self._opened(_directory(target_path(self.spec.root, source, which), f"{where}.{which}"), split, where)


class Dataset:
    """One split of a prepared dataset."""

    multiline = False

    def __init__(self, path: Path, split: str, where: str):
        import tensorflow_datasets as tfds

        self.path, self.where = path, where
        try:
            info = tfds.builder_from_directory(str(path)).info
        except Exception as error:  # TFDS raises many kinds for damaged metadata
            raise UserError(f"{path}: no TFDS dataset that can be read ({one_line(error)[:160]})") from error
        kind = info.file_format.value if info.file_format else "unknown"
        if kind != "array_record":
            raise UserError(
                f"{path}: stored as {kind}, which needs TensorFlow; build it with `tfds build ... "
                "--file_format=array_record`"
            )
        self.features = dict(_flat(info.features.get_tensor_info()))
        try:
            self._pieces = list(info.splits["+".join(info.splits) if split == ALL else split].file_instructions)
        except Exception as error:
            raise UserError(
                f"{where}.tfds_split: {path} has no split {split!r}{nearest(split, list(info.splits))}"
            ) from error
        self.shards = [Path(piece.filename) for piece in self._pieces]

    def stage(self, wanted: Mapping[str, str], engine: Engine, rejects: Rejects, which: str = "interactions") -> None:
        """Read features (ours -> the dataset's) as text into the table `staged`, beside `place`, the record's number
        from 0."""
        for column, feature in wanted.items():
            option = "time" if column == "time_text" else column.removesuffix("_id")
            hint = f"set {self.where}.columns.{option}"
            if feature not in self.features:
                raise UserError(
                    f"{self.path}: no feature {feature!r}{nearest(feature, self.features)} ({hint} to the dataset's "
                    "name for it)"
                )
            if self.features[feature]:
                raise UserError(
                    f"{self.path}: feature {feature!r} holds many values a record; {hint} to one with a single value"
                )
        columns = ["place", *wanted]
        engine.execute("DROP TABLE IF EXISTS staged")
        engine.execute(f"CREATE TABLE staged (place BIGINT, {', '.join(f'{name} VARCHAR' for name in wanted)})")
        schema = pa.schema([("place", pa.int64()), *((name, pa.string()) for name in wanted)])
        n_bad, first_bad, number = 0, [], 0
        for records in self._batches():
            rows = []
            for record in records:
                try:
                    rows.append((number, *(_text(record[feature]) for feature in wanted.values())))
                except UnicodeDecodeError:
                    n_bad += 1
                    first_bad += [f"record {number + 1}"] if n_bad <= SAMPLES else []
                number += 1
            values = zip(*rows, strict=True) if rows else [()] * len(columns)
            arrays = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
            engine.insert("staged", columns, pa.Table.from_arrays(arrays, schema=schema))
        if n_bad:
            rejects.bad_lines(NOT_UTF8, n_bad, str(self.path), first_bad, which)
        if n_bad == number:
            raise UserError(f"{self.path}: no readable records; an empty dataset makes no corpus")

    def of(self, engine: Engine, condition: str) -> list[str]:
        """As `adapters.table.Examples`: the first few rows of `parsed` that meet `condition`."""
        query = (
            f"SELECT place, user_id, item_id, time_text FROM parsed WHERE {condition} ORDER BY place LIMIT {SAMPLES}"
        )
        return [
            f"record {number + 1}: user {user}, item {item}, time {time}"
            for number, user, item, time in engine.rows(query)
        ]

    def _batches(self) -> Iterator[list[Any]]:
        """The features of some thousand records at a time, in order. A damaged shard is a `UserError` that names it."""
        from array_record.python.array_record_module import ArrayRecordReader
        from tensorflow_datasets.proto import tf_example_pb2

        for piece in self._pieces:
            try:
                reader = ArrayRecordReader(piece.filename)
                held, expected = reader.num_records(), piece.examples_in_shard
                if held != expected:
                    raise UserError(
                        f"{piece.filename}: {held} records, but {INFO} says {expected}; build the dataset again"
                    )
                for start in range(piece.skip, piece.skip + piece.take, BATCH_RECORDS):
                    stop = min(start + BATCH_RECORDS, piece.skip + piece.take)
                    raw = reader.read(list(range(start, stop)))
                    yield [tf_example_pb2.Example.FromString(record).features.feature for record in raw]
                reader.close()
            except UserError:
                raise
            except Exception as error:  # array_record's RuntimeError, protobuf's DecodeError
                raise UserError(
                    f"{piece.filename}: damaged or absent ({one_line(error)[:160]}); build the dataset again"
                ) from error


def _flat(features: Any, prefix: str = "") -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """(name, shape) of every feature, nested ones with "/" between the steps."""
    for name, info in features.items():
        if isinstance(info, Mapping):
            yield from _flat(info, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", info.shape


def _text(feature: Any) -> str | None:
    """The single value of a feature as text; None if it has none. Bytes that are no UTF-8 raise
    `UnicodeDecodeError`."""
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    if not values:
        return None
    value = values[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def _directory(path: Path, where: str) -> Path:
    """The dataset's own directory: `path`, or its newest version."""
    if (path / INFO).is_file():
        return path
    versions = [info.parent for info in path.glob(f"*/{INFO}")] if path.is_dir() else []
    if not versions:
        raise UserError(
            f"{where}: {path} holds no prepared TFDS dataset ({INFO}); check the path and config.corpus.root"
        )
    return max(versions, key=lambda version: [int(part) if part.isdigit() else -1 for part in version.name.split(".")])
