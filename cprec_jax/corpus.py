"""Reads the corpus on disk that `prepare` wrote; flat numpy columns, no engine, no jax.

The format is described in `docs/data-formats.md`. Every file is checked against the SHA-256 in the manifest when it is
first read, so that a damaged or truncated corpus gives a `UserError` and never a wrong figure.
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cprec_jax.artefact import MANIFEST, file_sha256, read_json
from cprec_jax.config.build import nearest
from cprec_jax.errors import UserError, one_line

VERSION = 1
ITEMS_FILE = "items.parquet"
RECORDS_A_BATCH = 16_384
TrainSplit = Literal["domain", "mixed", "sft"]
EvalSplit = Literal["valid", "test"]


@dataclass(frozen=True, kw_only=True)
class ItemTable:
    """All items of all domains; position = item number."""

    domain: np.ndarray  # int16[N]
    title: list[str]
    train_count: np.ndarray  # int64[N], interactions in the training period

    def __len__(self) -> int:
        return len(self.title)


SMALL_SET = 500  # with fewer users than this, differences between methods mean little


@dataclass(frozen=True, kw_only=True)
class SetInfo:
    """One domain as something to evaluate on."""

    name: str
    domain_id: int
    role: Literal["pretrain", "downstream"]
    split: Literal["time", "leave_one_out"]
    repeats: bool  # some user meets an item twice in the training period, so a history must not be masked
    too_small: bool  # fewer than `SMALL_SET` test users: printed, but marked


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """n records; record i is `items[offsets[i]:offsets[i + 1]]`, oldest first."""

    user: np.ndarray  # int64[n]
    domain: np.ndarray  # int16[n], -1 for mixed
    offsets: np.ndarray  # int64[n + 1]
    items: np.ndarray  # int32[total]
    item_domains: np.ndarray  # int16[total]
    times: np.ndarray  # int64[total]; unix seconds, or positions

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """n users to rank for; the history of record i is `items[offsets[i]:offsets[i + 1]]`, oldest first, and never
    empty."""

    user: np.ndarray  # int64[n]
    offsets: np.ndarray  # int64[n + 1]
    items: np.ndarray  # int32[total]
    times: np.ndarray  # int64[total]
    target: np.ndarray  # int32[n]
    target_time: np.ndarray  # int64[n]
    untied: np.ndarray  # bool[n], no other interaction of the user in the set at the target's time
    seen: np.ndarray  # bool[n], the user occurs in the pre-training sequences

    def __len__(self) -> int:
        return len(self.user)


class Corpus:
    """An opened corpus directory. Files are read when asked for; items and sets are kept."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path, self.manifest = path, manifest
        self._verified: set[str] = set()
        self.hash: str = manifest["corpus_hash"]
        self.domains: list[str] = list(manifest["domains"])

    @classmethod
    def open(cls, path: Path | str) -> "Corpus":
        """Open WORKDIR/corpus. Absent, of another version or with files missing: `UserError`."""
        path = Path(path)
        manifest = read_json(path / MANIFEST, made_by="prepare")
        if manifest.get("version") != VERSION:
            raise UserError(
                f"{path}: corpus version {manifest.get('version')}, this program reads {VERSION}; run `launch.py "
                "prepare` again"
            )
        for key in ("corpus_hash", "domains", "sets", "files", "n_items"):
            if key not in manifest:
                raise UserError(f"{path / MANIFEST}: no {key!r}; it is damaged, run `launch.py prepare` again")
        for name in manifest["files"]:
            if not (path / name).is_file():
                raise UserError(f"{path / name}: missing; run `launch.py prepare` again")
        return cls(path, manifest)

    @functools.cached_property
    def items(self) -> ItemTable:
        table = self._read(ITEMS_FILE, ("item", "domain", "title", "train_count"))
        if not np.array_equal(_numbers(table, "item"), np.arange(len(table))):
            raise UserError(
                f"{self.path / ITEMS_FILE}: item numbers are not 0, 1, 2, ...; run `launch.py prepare` again"
            )
        return ItemTable(
            domain=_numbers(table, "domain"),
            title=table["title"].to_pylist(),
            train_count=_numbers(table, "train_count"),
        )

    @functools.cached_property
    def item_ids(self) -> list[str]:
        """The ids of all items as the sources give them; apart from `items`, because only few need them."""
        return self._read(ITEMS_FILE, ("item_id",))["item_id"].to_pylist()

    @functools.cached_property
    def sets(self) -> dict[str, SetInfo]:
        fields = ("domain_id", "role", "split", "repeats", "too_small")
        return {
            name: SetInfo(name=name, **{field: info[field] for field in fields})
            for name, info in self.manifest["sets"].items()
        }

    def set_info(self, name: str) -> SetInfo:
        """One set by name; an unknown name is a `UserError`."""
        if name not in self.sets:
            raise UserError(f"{self.path}: no set {name!r}{nearest(name, self.sets)}")
        return self.sets[name]

    def catalogue(self, set_name: str) -> np.ndarray:
        """The items of a set's domain, ascending, int32[n]."""
        return np.flatnonzero(self.items.domain == self.set_info(set_name).domain_id).astype(np.int32)

    def sequences(self, split: TrainSplit, name: str = "all") -> Sequences:
        """Training sequences: `domain` by domain name, `mixed` ("all"), or `sft` by set name."""
        file = f"sequences/{split}/{name}.parquet"
        table = self._read(file, ("user", "domain", "items", "item_domains", "times"))
        offsets, items = self._lists(table, "items", file)
        _, item_domains = self._lists(table, "item_domains", file, offsets)
        _, times = self._lists(table, "times", file, offsets)
        self._check_items(items, file)
        return Sequences(
            user=_numbers(table, "user"),
            domain=_numbers(table, "domain"),
            offsets=offsets,
            items=items,
            item_domains=item_domains,
            times=times,
        )

    def targets(self, split: EvalSplit, set_name: str) -> Targets:
        """The users of one set with their histories and targets, in the file's order."""
        file = f"sequences/{split}/{self.set_info(set_name).name}.parquet"
        table = self._read(file, ("user", "items", "times", "target", "target_time", "untied", "seen"))
        offsets, items = self._lists(table, "items", file)
        _, times = self._lists(table, "times", file, offsets)
        target = _numbers(table, "target")
        self._check_items(items, file)
        self._check_items(target, file)
        if np.any(np.diff(offsets) < 1):
            raise UserError(f"{self.path / file}: a record has no history; run `launch.py prepare` again")
        if not np.isin(items, self.catalogue(set_name)).all():
            raise UserError(
                f"{self.path / file}: a history has an item of another set's catalogue; run `launch.py prepare` again"
            )
        return Targets(
            user=_numbers(table, "user"),
            offsets=offsets,
            items=items,
            times=times,
            target=target,
            target_time=_numbers(table, "target_time"),
            untied=_numbers(table, "untied"),
            seen=_numbers(table, "seen"),
        )

    def candidates(self, split: EvalSplit, set_name: str, protocol: str) -> np.ndarray:
        """Candidate items int32[n, C], row i for record i of `targets`; the target is among them once, at a hashed
        place."""
        file = f"candidates/{split}.{self.set_info(set_name).name}.{protocol}.parquet"
        if file not in self.manifest["files"]:
            raise UserError(
                f"{self.path / file}: not part of this corpus; add {protocol!r} to config.corpus.candidates.protocols "
                "(a set without users, or with too few items, has none)"
            )
        table = self._read(file, ("user", "target", "candidates"))
        targets = self.targets(split, set_name)
        if not np.array_equal(_numbers(table, "user"), targets.user) or not np.array_equal(
            _numbers(table, "target"), targets.target
        ):
            raise UserError(
                f"{self.path / file}: users or targets differ from the split's; run `launch.py prepare` again"
            )
        offsets, items = self._lists(table, "candidates", file)
        self._check_items(items, file)
        width = int(offsets[1]) if len(table) else 0
        if np.any(np.diff(offsets) != width) or np.any(
            (items.reshape(len(table), width) == targets.target[:, None]).sum(axis=1) != 1
        ):
            raise UserError(
                f"{self.path / file}: rows of unequal length, or without their target; run `launch.py prepare` again"
            )
        rows = np.sort(items.reshape(len(table), width), axis=1)
        if np.any(rows[:, 1:] == rows[:, :-1]) or not np.isin(items, self.catalogue(set_name)).all():
            raise UserError(
                f"{self.path / file}: a candidate twice, or of another set's catalogue; run `launch.py prepare` again"
            )
        return items.reshape(len(table), width)

    def oracle(self, split: EvalSplit, set_name: str) -> np.ndarray | None:
        """Known next-item probabilities float32[n, len(catalogue)] in the order of `targets`, or None for real data."""
        file = f"oracle/{split}.{self.set_info(set_name).name}.parquet"
        if file not in self.manifest["files"]:
            return None
        table = self._read(file, ("user", "scores"))
        offsets, scores = self._lists(table, "scores", file)
        width = len(self.catalogue(set_name))
        if not np.array_equal(_numbers(table, "user"), self.targets(split, set_name).user) or np.any(
            np.diff(offsets) != width
        ):
            raise UserError(
                f"{self.path / file}: does not fit the split's users or the catalogue; run `launch.py prepare` again"
            )
        return scores.reshape(len(table), width)

    def n_sequences(self, split: TrainSplit, name: str = "all") -> int:
        """Records of a split, from the manifest."""
        return int(self.manifest["files"][f"sequences/{split}/{name}.parquet"]["rows"])

    def windows(self, split: TrainSplit, name: str, interactions: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The items of `sequences` as a stream: (items int32[total], offsets int64[n + 1]) of consecutive whole
        records.

        A window ends with the record that brings it to at least `interactions`, whatever the file's layout.
        """
        file = f"sequences/{split}/{name}.parquet"
        path = self._verified_path(file)
        parts: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        held = rows = 0
        try:
            with pq.ParquetFile(path, memory_map=True) as parquet:
                for batch in parquet.iter_batches(batch_size=RECORDS_A_BATCH, columns=["items"]):
                    rows += len(batch)
                    offsets, items = flat_lists(pa.chunked_array([batch.column(0)]))
                    self._check_items(items, file)
                    first = 0
                    while first < len(batch):
                        last = min(int(np.searchsorted(offsets, offsets[first] + interactions - held)), len(batch))
                        parts.append(items[offsets[first] : offsets[last]])
                        lengths.append(np.diff(offsets[first : last + 1]))
                        held += len(parts[-1])
                        first = last
                        if held >= interactions:
                            yield _joined(parts, lengths)
                            parts, lengths, held = [], [], 0
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: damaged ({one_line(error)[:160]}); run `launch.py prepare` again") from error
        if rows != self.manifest["files"][file]["rows"]:
            raise UserError(
                f"{path}: {rows} rows, expected {self.manifest['files'][file]['rows']}; run `launch.py prepare` again"
            )
        if lengths:
            yield _joined(parts, lengths)

    def _verified_path(self, name: str) -> Path:
        path = self.path / name
        if name not in self.manifest["files"]:
            known = [record for record in self.manifest["files"] if record.rsplit("/", 1)[0] == name.rsplit("/", 1)[0]]
            raise UserError(f"{path}: not part of this corpus{nearest(name, known) if known else ''}")
        if name not in self._verified and file_sha256(path) != self.manifest["files"][name]["sha256"]:
            raise UserError(
                f"{path}: not the file the manifest describes (damaged, truncated or changed); run `launch.py "
                "prepare` again"
            )
        self._verified.add(name)
        return path

    def _read(self, name: str, columns: tuple[str, ...]) -> pa.Table:
        path, expected = self._verified_path(name), self.manifest["files"][name]
        try:
            with pq.ParquetFile(
                path, memory_map=True
            ) as opened:  # `read_table` would import pyarrow.dataset and with it pandas
                table = opened.read(columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: damaged ({one_line(error)[:160]}); run `launch.py prepare` again") from error
        if table.num_columns != len(columns) or len(table) != expected["rows"]:
            raise UserError(
                f"{path}: {len(table)} rows with columns {table.column_names}, expected {expected['rows']} rows with "
                f"{list(columns)}"
            )
        return table

    def _lists(
        self, table: pa.Table, column: str, file: str, expected: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(offsets int64[n + 1], flat values) of a list column; with `expected`, its lengths must be those."""
        offsets, values = flat_lists(table[column])
        if expected is not None and not np.array_equal(offsets, expected):
            raise UserError(
                f"{self.path / file}: column {column!r} has other lengths than 'items'; run `launch.py prepare` again"
            )
        return offsets, values

    def _check_items(self, items: np.ndarray, file: str) -> None:
        if len(items) and (items.min() < 0 or items.max() >= self.manifest["n_items"]):
            raise UserError(
                f"{self.path / file}: an item number is outside 0..{self.manifest['n_items'] - 1}; run `launch.py "
                "prepare` again"
            )


def hash60(text: str) -> int:
    """Non-negative integer below 2^60 from the MD5 of `text`; equal to the SQL function of this name in every engine of
    `data_prep`."""
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:15], 16)


def user_key(platform: str, raw_user: str) -> int:
    """The corpus's user number: the same person on all domains of one platform. Equal to the expression in
    `data_prep/sql/encode.sql`."""
    return hash60(f"{platform}\x1f{raw_user}")


def as_numpy(array: pa.Array) -> np.ndarray:
    """Numbers or booleans without nulls. Arrow's own `to_numpy` would import pandas, which takes a fifth of a
    second."""
    if pa.types.is_boolean(array.type):
        return np.from_dlpack(array.cast(pa.uint8())).view(bool)
    return np.from_dlpack(array)


def flat_lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A list column as (offsets int64[n + 1], flat values)."""
    array = column.combine_chunks()
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    values = [as_numpy(chunk.flatten()) for chunk in chunks]
    lengths = [np.diff(as_numpy(chunk.offsets)).astype(np.int64) for chunk in chunks]
    offsets = np.concatenate([np.zeros(1, np.int64), *lengths])
    np.cumsum(offsets, out=offsets)
    empty = np.zeros(0, column.type.value_type.to_pandas_dtype())
    return offsets, np.concatenate([empty, *values])


def _joined(parts: list[np.ndarray], lengths: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([np.zeros(1, np.int64), *lengths])
    np.cumsum(offsets, out=offsets)
    return np.concatenate(parts), offsets


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    return as_numpy(table[column].combine_chunks())
