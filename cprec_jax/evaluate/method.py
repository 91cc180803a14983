"""What can rank a set: one score per item, in batches of users, and (where a method has one) a distribution."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from cprec_jax.evaluate.eval_set import EvalSet

T = TypeVar("T")

USERS_PER_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Users (positions in the set) with their scores float[b, N], and log-probabilities of the whole unmasked catalogue
    or None.

    Without `scores` (a method asked for sampled protocols only) `by_protocol` has those of the candidates, float[b, C];
    a protocol that it leaves out is not ranked.
    `partial`: scores beyond each user's best titles, the target and the candidates are not those of the method.
    """

    users: np.ndarray
    scores: np.ndarray | None
    log_probs: np.ndarray | None
    by_protocol: Mapping[str, np.ndarray] = field(default_factory=dict)
    partial: bool = False


class Method(Protocol):
    """Scores every user of a set once; `facts` are recorded in the set's results after that."""

    def score(self, data: EvalSet) -> Iterator[Scored]: ...

    def facts(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Share:
    """The batches of users that one of several processes scores: of every `of` in a row the one numbered `process`.

    Batches are shared, not users: so each holds the same users, padded alike, however many processes there are, and
    gives the same bits.
    """

    process: int = 0
    of: int = 1

    def take(self, batches: Iterator[T]) -> Iterator[T]:
        return itertools.islice(batches, self.process, None, self.of)

    def numbers(self) -> Iterator[int]:
        """Of the batches that `take` gives, among all."""
        return itertools.count(self.process, self.of)

    def users(self, n: int, batch_users: int) -> int:
        """How many of `n` users are in these batches."""
        return sum(min(batch_users, n - first) for first in range(0, n, batch_users)[self.process :: self.of])


WHOLE = Share()


def user_batches(n: int) -> Iterator[np.ndarray]:
    """The positions 0 to n - 1 in batches of `USERS_PER_BATCH`, int64 each."""
    for first in range(0, n, USERS_PER_BATCH):
        yield np.arange(first, min(first + USERS_PER_BATCH, n))
