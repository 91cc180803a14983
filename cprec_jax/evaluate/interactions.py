"""The training data of counting and sequential baselines: the sequences of a set's domain, as columns of its
catalogue."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.text import ragged

Fit = Literal["train", "history"]
DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """n sequences over a catalogue of N items; sequence i is `items[offsets[i]:offsets[i + 1]]`, columns, oldest first.

    `timed`: `times` are unix seconds; otherwise they are positions and say nothing across users.
    """

    user: np.ndarray  # int64[n]
    offsets: np.ndarray  # int64[n + 1]
    items: np.ndarray  # int64[total]
    times: np.ndarray  # int64[total]
    n_items: int
    timed: bool

    def __len__(self) -> int:
        return len(self.user)

    @property
    def rows(self) -> np.ndarray:
        """The sequence of every interaction, int64[total]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


def interactions(corpus: Corpus, data: EvalSet, fit: Fit) -> Interactions:
    """The training sequences of a set's domain; with `history`, every evaluated user's sequence up to the target takes
    their place.

    `history` is what published leave-one-out baselines count: validation interactions are known when the test is
    predicted. It takes all users of the split, whatever `max_users` ranks. A set split by time is a `UserError`:
    others' histories go on after a target's time.
    """
    info = corpus.set_info(data.name)
    if fit == "history" and info.split != "leave_one_out":
        raise UserError(
            f"config.evaluate.names: fit 'history' on set {data.name} would count what came after its targets, since "
            "it is split by time; "
            "use fit 'train', or split 'leave_one_out' in config.corpus"
        )
    sequences = corpus.sequences("sft" if info.role == "downstream" else "domain", data.name)
    user, offsets, items, times = sequences.user, sequences.offsets, sequences.items, sequences.times
    if fit == "history":
        targets = corpus.targets(data.split, data.name)
        others = np.flatnonzero(~np.isin(user, targets.user))
        kept_items, kept_offsets = ragged.gather(items, offsets, others)
        kept_times, _ = ragged.gather(times, offsets, others)
        user = np.concatenate([targets.user, user[others]])
        offsets = np.concatenate([targets.offsets, targets.offsets[-1] + kept_offsets[1:]])
        items, times = np.concatenate([targets.items, kept_items]), np.concatenate([targets.times, kept_times])
    timed = corpus.manifest["sources"][data.name]["order"] == "timestamp"
    columns = np.searchsorted(data.items, items)
    return Interactions(user=user, offsets=offsets, items=columns, times=times, n_items=len(data.items), timed=timed)


def histories(data: EvalSet, users: np.ndarray, last: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, column, age) of the histories of `users`, int64[total] each; age 0 is the newest item. With `last`, only
    the newest so many."""
    items, offsets = ragged.gather(data.targets.items, data.targets.offsets, users)
    lengths = np.diff(offsets)
    row = np.repeat(np.arange(len(users)), lengths)
    age = offsets[1:][row] - 1 - np.arange(len(items))
    kept = slice(None) if last is None else age < last
    return row[kept], np.searchsorted(data.items, items)[kept], age[kept]
