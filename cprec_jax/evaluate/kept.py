"""What evaluation keeps beside its results: the ranks of each row, set and seed (a cell), and what it trained.

Both are used as long as their inputs are the same. What is damaged is made again.
"""

import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax import artefact
from cprec_jax.evaluate.collect import Collected
from cprec_jax.graph import Artefact, Graph

ARRAYS = "arrays.npz"
FACTS = "found"  # the key of the manifest
BY_PROTOCOL = ("n_better", "n_tied", "n_candidates")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One seed of a row on one set.

    facts: of the method, for the set's entry in results.json. rule, step, general_text: None where the method has none.
    seconds: how long ranking took. environment: where it was ranked.
    """

    collected: Collected
    facts: dict[str, Any]
    rule: str | None
    step: int | None
    general_text: dict[str, Any] | None
    seconds: float
    environment: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Store:
    """The cells and trained methods of a work directory.

    cell: the artefact of a row, set and seed; trained: that of a sequential row, set and seed.
    before_ranking: called with the name of a row of which something must be ranked.
    """

    graph: Graph
    cell: Callable[[str, str, int], Artefact]
    trained: Callable[[str, str, int], Artefact]
    before_ranking: Callable[[str], None]

    def read_cell(self, row: str, set_name: str, seed: int) -> Cell | None:
        """None where it has to be ranked."""
        stored = self._read(self.cell(row, set_name, seed))
        if stored is None:
            return None
        arrays, facts = stored
        values: dict[str, Any] = {**{column: {} for column in BY_PROTOCOL}, **facts.pop("collected")}
        for key, array in arrays.items():
            column, _, protocol = key.partition("/")
            if protocol:
                values[column][protocol] = array
            else:
                values[column] = array
        return Cell(collected=Collected(**values), **facts)

    def write_cell(self, row: str, set_name: str, seed: int, cell: Cell) -> Cell:
        """Gives back what was written, so that a cell is the same whether it was ranked now or before."""
        values = dict(vars(cell.collected))
        arrays = {
            f"{column}/{protocol}": ranks for column in BY_PROTOCOL for protocol, ranks in values.pop(column).items()
        }
        arrays |= {key: values.pop(key) for key, value in list(values.items()) if isinstance(value, np.ndarray)}
        facts = {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)} | {"collected": values}
        self._write(self.cell(row, set_name, seed), arrays, facts)
        written = self.read_cell(row, set_name, seed)
        assert written is not None, "what it is made from changed while it was ranked"
        return written

    def shelf(self, row: str, seed: int) -> "Shelf":
        return Shelf(store=self, row=row, seed=seed)

    def _read(self, kept: Artefact) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        if not self.graph.holds(kept):
            return None
        arrays, manifest = _read_arrays(kept.path / ARRAYS), artefact.read_manifest(kept.path)
        if arrays is None or manifest is None or FACTS not in manifest:
            return None
        return arrays, manifest[FACTS]

    def _write(self, kept: Artefact, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        with artefact.new_directory(kept.path) as directory:
            np.savez_compressed(directory / ARRAYS, **arrays)  # type: ignore[arg-type]  # which takes a name for its flag
            artefact.write_manifest(directory, self.graph.made_from(kept), {FACTS: facts})


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The parameters that one seed of a sequential row trained, by set: arrays by name, and facts."""

    store: Store
    row: str
    seed: int

    def read(self, set_name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """None where it has to be trained."""
        return self.store._read(self.store.trained(self.row, set_name, self.seed))

    def write(self, set_name: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self.store._write(self.store.trained(self.row, set_name, self.seed), arrays, facts)


def _read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """None where the file is not there or damaged: it holds a checksum of every array."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return None
