"""Pieces that several processes rank make up what one collects, bit by bit."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.collect import Collected, collect, put_together
from cprec_jax.evaluate.eval_set import EvalSet, open_set
from cprec_jax.evaluate.method import WHOLE, Scored, Share
from cprec_jax.evaluate.pieces import piece_of, read_pieces, write_pieces

BATCH = 3


def assert_same(one: Collected, two: Collected) -> None:
    """The same bits in every field, and the protocols in the same order."""
    for field in fields(Collected):
        first, second = getattr(one, field.name), getattr(two, field.name)
        if isinstance(first, dict):
            assert list(first) == list(second)
            arrays = list(zip(first.values(), second.values(), strict=True))
        elif isinstance(first, np.ndarray):
            arrays = [(first, second)]
        else:
            assert first == second, field.name
            arrays = []
        for a, b in arrays:
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), field.name


class Scores:
    """Random scores of the users, in an order of their own."""

    def __init__(self, kind: str):
        self._kind = kind

    def facts(self) -> dict[str, Any]:
        return {}

    def score(self, data: EvalSet) -> Iterator[Scored]:
        rng = np.random.default_rng(0)
        order = rng.permutation(len(data))
        for first in range(0, len(data), BATCH):
            users = order[first : first + BATCH]
            scores = rng.normal(size=(len(users), len(data.items))).astype(np.float32)
            if self._kind == "candidates":
                columns = data.candidates["u20"][users]
                of_candidates = {"u20": np.take_along_axis(scores, columns, axis=1)}
                yield Scored(users=users, scores=None, log_probs=None, by_protocol=of_candidates)
            else:
                flat = np.zeros_like(scores) if self._kind == "flat" else scores
                log_probs = None if self._kind == "no probabilities" else scores
                yield Scored(users=users, scores=flat, log_probs=log_probs, partial=self._kind == "partial")


@pytest.fixture(scope="module")
def books(corpus: Corpus) -> EvalSet:
    return open_set(corpus, "Books", "test", ("full", "u20"), True, 20, 0)


@pytest.mark.parametrize("kind", ["probabilities", "no probabilities", "partial", "flat", "candidates"])
@pytest.mark.parametrize("processes", [1, 2, 3, 30])
def test_pieces_of_any_split_are_the_whole(books: EvalSet, tmp_path: Path, kind: str, processes: int) -> None:
    """Also where some have none."""
    whole = [piece_of(batch, books, "row") for batch in Scores(kind).score(books)]
    dealt = np.random.default_rng(processes).integers(processes, size=len(whole))
    read = {}
    for process in reversed(range(processes)):
        mine = {int(number): whole[number] for number in np.flatnonzero(dealt == process)}
        write_pieces(tmp_path / f"{process}.npz", mine)
        read |= read_pieces(tmp_path / f"{process}.npz")
    together = put_together(books, (read[number] for number in sorted(read)))
    assert_same(together, collect(Scores(kind), books, "row"))
    assert together.partial == (kind == "partial") and together.flat == (kind in ("flat", "candidates"))


def test_a_batch_that_is_ranked_by_nobody_or_twice_is_no_result(books: EvalSet) -> None:
    whole = [piece_of(batch, books, "row") for batch in Scores("flat").score(books)]
    for pieces in (whole[1:], [*whole, whole[0]]):
        with pytest.raises(AssertionError, match="score every user once"):
            put_together(books, pieces)


@pytest.mark.parametrize("of", [1, 2, 7, 50])
def test_shares_are_all_batches_once(of: int) -> None:
    batches = [range(first, min(first + 4, 30)) for first in range(0, 30, 4)]
    shares = [Share(process=process, of=of) for process in range(of)]
    dealt = {
        number: batch
        for share in shares
        for number, batch in zip(share.numbers(), share.take(iter(batches)), strict=False)
    }
    assert dealt == dict(enumerate(batches))
    assert [share.users(30, 4) for share in shares] == [sum(map(len, share.take(iter(batches)))) for share in shares]
    assert list(WHOLE.take(iter(batches))) == batches
