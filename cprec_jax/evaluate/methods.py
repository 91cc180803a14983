"""What the harness can rank a set with: one score an item, in batches of users, and (where it has one) a distribution."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from cprec_jax.errors import UserError, one_line
from cprec_jax.evaluate.sets import EvalSet
from cprec_jax.progress import say

USERS_A_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Users (positions in the set) with their scores float[b, N], and log-probabilities of the whole unmasked catalogue or None.

    Without `scores` (a method asked for sampled protocols only) `by_protocol` has those of the candidates, float[b, C].
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


def user_batches(n: int) -> Iterator[np.ndarray]:
    for first in range(0, n, USERS_A_BATCH):
        yield np.arange(first, min(first + USERS_A_BATCH, n))


class Oracle:
    """The known next-item distribution of a synthetic corpus: no method can be better in expectation."""

    def score(self, data: EvalSet) -> Iterator[Scored]:
        if data.oracle is None:
            raise UserError(f"set {data.name}: the corpus holds no oracle (only synthetic sources have one); leave kind 'oracle' out")
        for users in user_batches(len(data)):
            probabilities = data.oracle[users].astype(np.float64)
            log_probs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
            yield Scored(users=users, scores=probabilities, log_probs=log_probs)

    def facts(self) -> dict[str, Any]:
        return {}


class ScoreFile:
    """Scores of another system: a table `user, item, score` (Parquet, CSV or TSV), with the numbers of the corpus's own files.

    Items a user has no score for rank below all that have one, and tie. A user of the set without any score for its catalogue is a
    `UserError`; so are empty cells, scores that are not finite and pairs given twice. There is no distribution, so no NLL.
    """

    def __init__(self, path: Path):
        self._path = path
        table = _read_table(path)
        for column in ("user", "item", "score"):
            if (count := table.column_names.count(column)) != 1:
                found = f"{'two columns' if count else 'no column'} {column!r}"
                raise UserError(f"{path}: {found}; a file of scores has user, item and score once (found {table.column_names})")
            if table[column].null_count:
                row = int(np.flatnonzero(table[column].is_null().to_numpy())[0])
                raise UserError(f"{path}: row {row + 1}: {column} is empty or NaN; leave such rows out, or fill them")
        try:
            user, item = (table[name].cast(pa.int64()).to_numpy() for name in ("user", "item"))
            score = table["score"].cast(pa.float64()).to_numpy()
        except pa.ArrowException as error:
            raise UserError(f"{path}: user and item must be the corpus's numbers, score a number ({one_line(error)[:120]})") from error
        if not np.isfinite(score).all():
            row = int(np.flatnonzero(~np.isfinite(score))[0])
            raise UserError(f"{path}: row {row + 1}: score {score[row]} of user {user[row]}, item {item[row]}; scores must be finite")
        if not len(score):
            raise UserError(f"{path}: holds no scores")
        order = np.lexsort((item, user))
        self._user, self._item, self._score = user[order], item[order], score[order]
        twice = (np.diff(self._user) == 0) & (np.diff(self._item) == 0)
        if twice.any():
            row = int(np.flatnonzero(twice)[0])
            raise UserError(f"{path}: user {self._user[row]} has two scores for item {self._item[row]}; give one")
        self._facts: dict[str, Any] = {}

    def score(self, data: EvalSet) -> Iterator[Scored]:
        first = np.searchsorted(self._user, data.targets.user)
        last = np.searchsorted(self._user, data.targets.user, side="right")
        if (first == last).any():
            raise UserError(f"{self._path}: no score for user {data.targets.user[np.flatnonzero(first == last)[0]]} of set {data.name}")
        missing = 0
        lowest = np.nextafter(self._score.min(), -np.inf)  # what is missing ties below everything
        for users in user_batches(len(data)):
            scores = np.full((len(users), len(data.items)), lowest)
            for row, user in enumerate(users):
                item, score = self._item[first[user] : last[user]], self._score[first[user] : last[user]]
                column = np.minimum(np.searchsorted(data.items, item), len(data.items) - 1)
                here = data.items[column] == item  # a file may hold several sets
                if not here.any():  # the user would be ranked like chance: numbers of another corpus?
                    raise UserError(
                        f"{self._path}: user {data.targets.user[user]} has scores, but for no item of set {data.name}; "
                        f"`item` must be the corpus's numbers (its catalogue: {data.items[0]} to {data.items[-1]})"
                    )
                scores[row, column[here]] = score[here]
                missing += len(data.items) - int(here.sum())
            yield Scored(users=users, scores=scores, log_probs=None)
        self._facts = {"pairs_without_score": missing}
        if missing:
            pairs = len(data) * len(data.items)
            say(f"evaluate: {data.name}: {self._path} has no score for {missing:,} of {pairs:,} pairs of user and item; they tie last")

    def facts(self) -> dict[str, Any]:
        return self._facts


def _read_table(path: Path) -> pa.Table:
    if not path.is_file():
        raise UserError(f"{path}: no such file of scores; check `path` in config.evaluate.names")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        delimiter = "\t" if path.suffix in (".tsv", ".tab") else ","
        return pa_csv.read_csv(path, parse_options=pa_csv.ParseOptions(delimiter=delimiter))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)[:160]})") from error
