"""A set that all processes rank with one language model: the first chooses what it is scored by, each ranks its share
of the users' batches, and the first puts the pieces together.

Pieces are files in a folder that only this attempt knows: what a killed one left is removed, and never read.
"""

import dataclasses
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cprec_jax import artefact
from cprec_jax import workdir as paths
from cprec_jax.config.evaluate import VALIDATION
from cprec_jax.config.root import Config
from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.collect import Collected, put_together
from cprec_jax.evaluate.eval_set import EvalSet, open_ranked
from cprec_jax.evaluate.kept import Store
from cprec_jax.evaluate.method import Share
from cprec_jax.evaluate.pieces import Piece, piece_of, read_pieces, write_pieces
from cprec_jax.methods.registry import Registry
from cprec_jax.methods.title_model import TitleModel
from cprec_jax.methods.validation import Choice
from cprec_jax.parallel import processes
from cprec_jax.parallel.processes import Others
from cprec_jax.progress import say

PIECES = "pieces.npz"
CHECK_S = 5.0  # between two looks at whether another process has failed


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The language model that is asked for. step: the one that validation chose; None: that which the row names."""

    row: str
    seed: int
    part: str | None
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The share of a set that is asked for. attempt: see `workdir.pieces_directory`."""

    opening: Opening
    set_name: str
    choice: Choice
    attempt: str


def collect_by_all(
    method: TitleModel, opening: Opening, data: EvalSet, registry: Registry, others: Others
) -> Collected:
    """`collect`, of which the other processes do their shares."""
    cell = _cell(registry, opening, data.name)
    for left in paths.pieces_directories(cell.parent):
        shutil.rmtree(left, ignore_errors=True)
    attempt, choice = secrets.token_hex(8), method.choose(data)
    folder = paths.pieces_directory(cell, attempt)
    ranking = Ranking(opening=opening, set_name=data.name, choice=choice, attempt=attempt)
    try:
        number = others.ask(dataclasses.asdict(ranking))
        share = Share(of=1 + len(others))
        pieces = _ranked(method, data, opening.row, share, choice, lambda: others.check(number))
        for process, counts in enumerate(others.answers(number), start=1):
            pieces |= read_pieces(_directory(folder, process) / PIECES)
            method.counts.update(counts)
        return put_together(data, (pieces[batch] for batch in sorted(pieces)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cell(registry: Registry, opening: Opening, set_name: str) -> Path:
    return paths.cell_directory(registry.workdir, registry.spec.split, opening.row, set_name, opening.seed)


def _directory(folder: Path, process: int) -> Path:
    return folder / f"process-{process + 1}"


def _ranked(
    method: TitleModel, data: EvalSet, row: str, share: Share, choice: Choice, check: Callable[[], None]
) -> dict[int, Piece]:
    """The pieces of a share by the numbers of their batches. check: raises where another process has failed."""
    pieces, checked = {}, time.monotonic()
    for number, batch in zip(share.numbers(), method.score(data, share, choice), strict=False):
        pieces[number] = piece_of(batch, data, row)
        if time.monotonic() - checked > CHECK_S:
            check()
            checked = time.monotonic()
    users = sum(len(piece.users) for piece in pieces.values())
    say(
        f"evaluate: {row} on {data.name}: process {share.process + 1} of {share.of} ranked {users} of {len(data)} users"
    )
    return pieces


class Ranker:
    """What one of the other processes does: it opens models, and ranks shares of sets, as the first asks."""

    def __init__(self, config: Config, workdir: Path, store: Store):
        corpus = Corpus.open(paths.corpus_directory(workdir))
        self._registry = Registry(
            spec=config.evaluate, config=config, workdir=workdir, corpus=corpus, validation={}, store=store
        )
        self._sets: dict[str, EvalSet] = {}
        self._opened: tuple[Opening, TitleModel] | None = None

    def answer(self, request: Mapping[str, Any], check: Callable[[], None]) -> dict[str, int]:
        """Open a model (an `Opening`), or leave the pieces of a share (a `Ranking`); gives what searches counted."""
        if "opening" not in request:
            self._open(Opening(**request))
            return {}
        ranking = Ranking(
            **{**request, "opening": Opening(**request["opening"]), "choice": Choice(**request["choice"])}
        )
        opening, registry = ranking.opening, self._registry
        method = self._open(opening)
        if ranking.set_name not in self._sets:
            self._sets[ranking.set_name] = open_ranked(registry.corpus, registry.spec, ranking.set_name)
        data = self._sets[ranking.set_name]
        share = Share(process=processes.index(), of=processes.count())
        pieces = _ranked(method, data, opening.row, share, ranking.choice, check)
        folder = paths.pieces_directory(_cell(registry, opening, data.name), ranking.attempt)
        with artefact.new_directory(_directory(folder, share.process)) as directory:
            write_pieces(directory / PIECES, pieces)
        return dict(method.counts)

    def _open(self, opening: Opening) -> TitleModel:
        """The one that is open, or another in its stead."""
        if self._opened is not None and self._opened[0] == opening:
            return self._opened[1]
        self._opened = None  # so that no two are in memory
        registry, spec = self._registry, self._registry.spec
        chosen = spec.names[opening.row]
        if chosen.step == VALIDATION:
            chosen = dataclasses.replace(chosen, step=opening.step)
            registry = dataclasses.replace(
                registry, spec=dataclasses.replace(spec, names={**spec.names, opening.row: chosen})
            )
        method, _ = registry.make(opening.row, opening.seed, opening.part)
        assert isinstance(method, TitleModel)
        self._opened = opening, method
        return method
