"""Documents of one split -> shards of full rows, a window of documents at a time."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cprec_jax.rows import best_fit
from cprec_jax.rows import dataset as rows
from cprec_jax.rows.shards import ROWS_PER_SHARD, PieceTable, ShardTask, ShardWriter
from cprec_jax.text import ragged

INTERACTIONS_PER_WORKER = 500_000


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Consecutive rows of a split as counts and pieces (see `ShardTask`)."""

    row_documents: np.ndarray
    document_pieces: np.ndarray
    pieces: np.ndarray

    def __len__(self) -> int:
        return len(self.row_documents)


@dataclass(kw_only=True)
class SplitPacker:
    """Packs the windows of one split best-fit into rows, numbers them, and hands every full shard to the writer.

    Rows depend on the windows and `rng` alone. With a `table` for all windows shards run over their borders; a window
    that brings a table of its own begins a shard.
    """

    split: str
    directory: Path
    row_length: int
    writer: ShardWriter
    rng: np.random.Generator
    n_items: int
    loss_below: int
    table: Path | None = None
    last_only: bool = False
    n_rows: int = 0
    n_documents: int = 0
    n_tokens: int = 0
    most_documents: int = 0
    _waiting: list[_Rows] = field(default_factory=list)
    _written: int = 0
    _shards: int = 0

    def add(
        self, pieces: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, table: PieceTable | None = None
    ) -> None:
        """Pack documents: document d is `pieces[offsets[d]:offsets[d + 1]]`, `lengths[d]` tokens."""
        row_of, n_rows = best_fit.best_fit(lengths, self.row_length, self.rng)
        order = np.argsort(row_of, kind="stable")
        bounds = np.searchsorted(row_of[order], np.arange(n_rows + 1))
        self.n_documents += len(lengths)
        self.n_tokens += int(lengths.sum())
        self.most_documents = max(self.most_documents, int(np.diff(bounds).max(initial=0)))
        first = 0
        while first < n_rows:
            last = min(n_rows, first + ROWS_PER_SHARD - sum(map(len, self._waiting)))
            documents = order[bounds[first] : bounds[last]]
            chosen, piece_ends = ragged.gather(pieces, offsets, documents)
            self._waiting.append(
                _Rows(
                    row_documents=np.diff(bounds[first : last + 1]).astype(np.int32),
                    document_pieces=np.diff(piece_ends).astype(np.int32),
                    pieces=chosen.astype(np.int32),
                )
            )
            self.n_rows += last - first
            first = last
            if self.n_rows - self._written >= ROWS_PER_SHARD or (table is not None and first == n_rows):
                self._submit(table)

    def finish(self) -> None:
        """Hand over the last, smaller shard."""
        if self._waiting:
            self._submit(None)

    def statistics(self) -> dict[str, int | float]:
        """What the manifest says of the split's rows."""
        return {
            "rows": self.n_rows,
            "documents": self.n_documents,
            "tokens": self.n_tokens,
            "most_documents": self.most_documents,
            "fill": self.n_tokens / max(self.n_rows * self.row_length, 1),
        }

    def _submit(self, table: PieceTable | None) -> None:
        joined = {
            name: np.concatenate([getattr(part, name) for part in self._waiting])
            for name in ("row_documents", "document_pieces", "pieces")
        }
        chosen_table = table or self.table
        assert chosen_table is not None
        task = ShardTask(
            path=rows.shard_path(self.directory, self.split, self._shards),
            row_length=self.row_length,
            first_row=self._written,
            n_items=self.n_items,
            loss_below=self.loss_below,
            last_only=self.last_only,
            table=chosen_table,
            **joined,
        )
        self.writer.submit(self.split, task)
        self._written, self._shards, self._waiting = self.n_rows, self._shards + 1, []


def cores() -> int:
    """The cores this process may use: a container or a scheduler often gives fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def used_workers(workers: int | None, cores: int, interactions: int) -> int:
    """As many as asked for (None: one a core), but none that would start up for longer than it works."""
    return max(1, min(workers or cores, interactions // INTERACTIONS_PER_WORKER))
