"""One evaluated set, ready to be ranked: its users, their targets as catalogue columns, candidates, masks and
slices."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.corpus import SMALL_SET, Corpus, EvalSplit, Targets
from cprec_jax.errors import UserError
from cprec_jax.evaluate.intervals import HISTORY, WARM, intervals
from cprec_jax.text import ragged


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """n users over a catalogue of N items (columns, ascending item number).

    `target` int64[n] is the target's column. `candidates` holds, by protocol, columns int64[n, C]. `history_masked`
    says whether items of the history are no candidates of `full`: by default only where no user of the set ever repeats
    an item. `train_count` int64[N]. `more_slices`, `overlap_terciles`: see `target_slices`.
    """

    name: str
    split: EvalSplit
    targets: Targets
    items: np.ndarray
    target: np.ndarray
    candidates: dict[str, np.ndarray]
    history_masked: bool
    train_count: np.ndarray
    titles: list[str]
    oracle: np.ndarray | None
    too_small: bool  # of the set's users of this split, however few of them are ranked
    more_slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    overlap_terciles: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.target)

    def excluded(self, users: np.ndarray) -> np.ndarray | None:
        """bool[len(users), N]: items of each user's history, or None when histories stay in the ranking."""
        if not self.history_masked:
            return None
        items, offsets = ragged.gather(self.targets.items, self.targets.offsets, users)
        mask = np.zeros((len(users), len(self.items)), bool)
        mask[np.repeat(np.arange(len(users)), np.diff(offsets)), np.searchsorted(self.items, items)] = True
        return mask

    def slices(self) -> dict[str, np.ndarray]:
        """Name -> bool[n]; empty slices are left out."""
        length = np.diff(self.targets.offsets)
        count = self.train_count[self.target]
        never_seen, cold, warm = intervals(0, 1, WARM)
        masks = {f"history {interval.label()}": interval.mask(length) for interval in intervals(*HISTORY)} | {
            "never seen": never_seen.mask(count),
            "cold": cold.mask(count),
            "warm": warm.mask(count),
            "seen users": self.targets.seen,
            "unseen users": ~self.targets.seen,
            "untied": self.targets.untied,
            **self.more_slices,
        }
        return {name: mask for name, mask in masks.items() if mask.any()}


def open_ranked(corpus: Corpus, spec: EvaluateSpec, name: str) -> EvalSet:
    """The users of a set that `evaluate` ranks for, with the candidates of every protocol."""
    return _open_by_spec(corpus, spec, name, spec.split, spec.protocols, spec.max_users)


def open_validation(corpus: Corpus, spec: EvaluateSpec, name: str) -> EvalSet:
    """The validation users of a set, a seeded choice, who are ranked for over the whole catalogue alone."""
    return _open_by_spec(corpus, spec, name, "valid", ("full",), spec.validation_users)


def validation_of(corpus: Corpus, data: EvalSet, max_users: int) -> EvalSet:
    """The validation users of the set of `data`, with the history masked as it is there: for baselines, whose choices
    depend on no setting of `config.evaluate` but their own."""
    return open_set(corpus, data.name, "valid", ("full",), data.history_masked, max_users, 0, mask_repeats=True)


def _open_by_spec(
    corpus: Corpus, spec: EvaluateSpec, name: str, split: EvalSplit, protocols: tuple[str, ...], max_users: int | None
) -> EvalSet:
    mask, always = spec.mask_history != "never", spec.mask_history == "always"
    return open_set(corpus, name, split, protocols, mask, max_users, spec.seed, mask_repeats=always)


def open_set(
    corpus: Corpus,
    name: str,
    split: EvalSplit,
    protocols: tuple[str, ...],
    mask_history: bool,
    max_users: int | None,
    seed: int,
    mask_repeats: bool = False,
) -> EvalSet:
    """Read a set of the corpus. A target that is not in its catalogue is a `UserError`.

    `mask_history` leaves histories out of the ranking where nobody repeats an item; with `mask_repeats` where somebody
    does, too.
    """
    info = corpus.set_info(name)
    targets = corpus.targets(split, name)
    available = len(targets)
    items = corpus.catalogue(name)
    chosen = _choose(len(targets), max_users, f"{name}/{split}/{seed}")
    candidates = {
        protocol: np.searchsorted(items, corpus.candidates(split, name, protocol)[chosen])
        for protocol in protocols
        if protocol != "full" and len(targets)
    }
    oracle = corpus.oracle(split, name)
    targets = _subset(targets, chosen)
    target = np.searchsorted(items, targets.target)
    known = np.isin(targets.target, items)
    if not known.all():
        lost = int(targets.target[~known][0])
        raise UserError(
            f"{corpus.path}: set {name}: target {lost} is not in its catalogue; run `launch.py prepare` again"
        )
    return EvalSet(
        name=name,
        split=split,
        targets=targets,
        items=items,
        target=target,
        candidates=candidates,
        history_masked=mask_history and (mask_repeats or not info.repeats),
        train_count=corpus.items.train_count[items],
        titles=[corpus.items.title[i] for i in items],
        oracle=None if oracle is None else oracle[chosen],
        too_small=info.too_small if split == "test" else available < SMALL_SET,
    )


def _choose(n: int, limit: int | None, key: str) -> np.ndarray:
    if limit is None or n <= limit:
        return np.arange(n)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return np.sort(np.random.default_rng(seed).permutation(n)[:limit])


def _subset(targets: Targets, rows: np.ndarray) -> Targets:
    items, offsets = ragged.gather(targets.items, targets.offsets, rows)
    times, _ = ragged.gather(targets.times, targets.offsets, rows)
    return Targets(
        user=targets.user[rows],
        offsets=offsets,
        items=items,
        times=times,
        target=targets.target[rows],
        target_time=targets.target_time[rows],
        untied=targets.untied[rows],
        seen=targets.seen[rows],
    )
