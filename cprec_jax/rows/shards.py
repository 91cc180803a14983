"""Writes shards of rows, in worker processes where there is enough to do. A shard is a function of its task alone, so
that the files do not depend on the number of workers."""

import contextlib
import errno
import functools
import mmap
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from cprec_jax.errors import UserError, one_line
from cprec_jax.rows.serialise import example, pack_varints

ROWS_PER_SHARD = 8192
ROWS_PER_CHUNK = 64  # at 2,048 tokens per row what is gathered stays in the cache
# groups of one as TFDS has them: every row can be read alone; zstd 1 is quicker than its 3, 0.6 % larger
OPTIONS = "group_size:1,zstd:1"


@dataclass(frozen=True, kw_only=True)
class PieceTable:
    """Runs of tokens: piece p is the packed varints `data[starts[p]:starts[p + 1]]`, `counts[p]` tokens."""

    data: bytes | mmap.mmap
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, tokens: np.ndarray, offsets: np.ndarray) -> "PieceTable":
        """Piece p is `tokens[offsets[p]:offsets[p + 1]]`."""
        data, starts = pack_varints(tokens)
        return cls(data=data.tobytes(), starts=starts[offsets], counts=np.diff(offsets).astype(np.int32))

    def save(self, folder: Path) -> Path:
        """Write it once for all workers, which map it instead of getting a copy each."""
        _mapped.cache_clear()  # a folder of this name may have been that of another table, which is gone
        folder.mkdir()
        (folder / "data").write_bytes(self.data or b"\0")
        np.save(folder / "starts.npy", self.starts)
        np.save(folder / "counts.npy", self.counts)
        return folder


@functools.lru_cache(maxsize=1)
def _mapped(folder: Path) -> PieceTable:
    with open(folder / "data", "rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return PieceTable(
        data=data,
        starts=np.load(folder / "starts.npy", mmap_mode="r"),
        counts=np.load(folder / "counts.npy", mmap_mode="r"),
    )


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """n rows of a split, numbered from `first_row`, as counts: documents per row, pieces per document, and the pieces
    themselves.

    Pieces below `n_items` are items of the corpus, others begin a document. Pieces from `loss_below` on carry no loss;
    with `last_only` none but the last piece of a document does. `table` is a folder (see `PieceTable.save`) or the
    table itself.
    """

    path: Path
    row_length: int
    first_row: int
    row_documents: np.ndarray
    document_pieces: np.ndarray
    pieces: np.ndarray
    n_items: int
    loss_below: int
    table: Path | PieceTable
    last_only: bool = False


def write_shard(task: ShardTask) -> tuple[int, int]:
    """Write one array_record file; returns its rows and the bytes of their examples. A full disk is a `UserError`."""
    n_bytes = 0
    with _disk_not_full():
        writer = ArrayRecordWriter(str(task.path), OPTIONS)
        for serialised in _examples(task):
            writer.write(serialised)
            n_bytes += len(serialised)
        writer.close()
    return len(task.row_documents), n_bytes


@contextlib.contextmanager
def _disk_not_full() -> Iterator[None]:
    """array_record has one error for everything, with the operating system's words in it."""
    try:
        yield
    except RuntimeError as error:
        if not any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
            raise
        raise UserError(
            f"pack: the disk is full ({one_line(error)[:200]}); free some space and run again (nothing was replaced)"
        ) from error


def _examples(task: ShardTask) -> Iterator[bytes]:
    table = task.table if isinstance(task.table, PieceTable) else _mapped(task.table)
    data, zeros = np.frombuffer(table.data, np.uint8), bytes(task.row_length)
    places = np.int32 if len(data) < 1 << 31 else np.int64
    document_ends = np.concatenate([[0], np.cumsum(task.row_documents, dtype=np.int64)])
    piece_ends = np.concatenate([[0], np.cumsum(task.document_pieces, dtype=np.int64)])
    counts_loss = _with_loss(task, piece_ends)
    for first in range(0, len(task.row_documents), ROWS_PER_CHUNK):
        documents = document_ends[first : first + ROWS_PER_CHUNK + 1]
        pieces = piece_ends[documents[0] : documents[-1] + 1]
        chosen = task.pieces[pieces[0] : pieces[-1]]
        starts = table.starts[chosen]
        sizes = table.starts[chosen + 1] - starts
        byte_ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        index = np.repeat((starts - byte_ends[:-1]).astype(places), sizes)
        index += np.arange(len(index), dtype=places)
        tokens = data[index].tobytes()
        counts = table.counts[chosen]
        token_ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        loss = np.repeat(counts_loss[pieces[0] : pieces[-1]], counts).tobytes()
        items, item_starts = pack_varints(np.where(chosen < task.n_items, chosen + 1, 0))
        items_bytes = items.tobytes()
        byte_bounds, token_bounds = byte_ends[pieces - pieces[0]], token_ends[pieces - pieces[0]]
        item_bounds = item_starts[pieces - pieces[0]]
        lengths, length_starts = pack_varints(np.diff(token_bounds))
        lengths_bytes = lengths.tobytes()
        rows = documents - documents[0]
        of_rows = (values[rows].tolist() for values in (byte_bounds, token_bounds, length_starts, item_bounds))
        bounds = zip(*of_rows, strict=True)  # of each row, and the end of the last one
        a, t, le, i = next(bounds)
        for row, (b, u, end, j) in enumerate(bounds, first):
            padding = zeros[: task.row_length - (u - t)]
            yield example(
                tokens[a:b] + padding,
                lengths_bytes[le:end],
                items_bytes[i:j],
                loss[t:u] + padding,
                task.first_row + row,
            )
            a, t, le, i = b, u, end, j


def _with_loss(task: ShardTask, piece_ends: np.ndarray) -> np.ndarray:
    """uint8[pieces]: whether the tokens of a piece count as targets."""
    loss = (task.pieces < task.loss_below).astype(np.uint8)
    if task.last_only:
        last = np.zeros_like(loss)
        last[piece_ends[1:] - 1] = 1
        loss &= last
    return loss


@contextlib.contextmanager
def _no_worker_lost() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            "pack: a worker process was killed (out of memory?); set config.pack.workers to fewer, or "
            "config.pack.window lower"
        ) from error


class ShardWriter:
    """Writes tasks as they come: here (`workers` 1), or in that many processes, with only a few tasks under way at a
    time."""

    def __init__(self, workers: int):
        self._pool = None
        if workers > 1:
            # Spawned: a fork would inherit the locks of Arrow's and the tokenizer's threads.
            self._pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
        self._limit = workers + 1
        self._under_way: deque[tuple[str, Future[tuple[int, int]]]] = deque()
        self.written: dict[str, list[tuple[int, int]]] = {}

    def submit(self, split: str, task: ShardTask) -> None:
        """Hand over the next shard of a split; waits while too many are under way."""
        self.written.setdefault(split, [])
        if self._pool is None:
            self.written[split].append(write_shard(task))
            return
        while len(self._under_way) >= self._limit:
            self._finish_one()
        with _no_worker_lost():  # a pool that knows of a dead worker takes no more tasks
            self._under_way.append((split, self._pool.submit(write_shard, task)))

    def _finish_one(self) -> None:
        split, future = self._under_way.popleft()
        with _no_worker_lost():
            self.written[split].append(future.result())

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._under_way:
                self._finish_one()
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
