"""Scores of one method on one set -> ranks by protocol, NLL, and the set's entry in results.json."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.method import Method
from cprec_jax.evaluate.metrics import per_user, summary
from cprec_jax.evaluate.pieces import FULL, TOP, Piece, piece_of


@dataclass(kw_only=True)
class Collected:
    """The ranks of one seed of a method on one set, and what else its scores say.

    n_better, n_tied, n_candidates: by protocol, int64[n] each. nll float64[n] (NaN: the method has no probabilities).
    top int64[n, 10]: the columns of the ten best visible items. score_sum float64[N]: over all users. flat: every score
    was alike. partial: see `Scored`. examples: the first users with their history, target and top ten.
    """

    n_better: dict[str, np.ndarray] = field(default_factory=dict)
    n_tied: dict[str, np.ndarray] = field(default_factory=dict)
    n_candidates: dict[str, np.ndarray] = field(default_factory=dict)
    nll: np.ndarray
    top: np.ndarray
    score_sum: np.ndarray
    flat: bool = True
    partial: bool = False
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        for protocol, ranks in piece.ranks.items():
            for columns, values in (
                (self.n_better, ranks.n_better),
                (self.n_tied, ranks.n_tied),
                (self.n_candidates, ranks.n_candidates),
            ):
                columns.setdefault(protocol, np.zeros(len(self.nll), np.int64))[piece.users] = values
        if piece.nll is not None:
            self.nll[piece.users] = piece.nll
        if piece.top is not None:
            self.top[piece.users] = piece.top
        if piece.score_sum is not None:
            self.score_sum += piece.score_sum
        self.flat &= piece.flat
        self.partial |= piece.partial
        self.examples += piece.examples

    def table(self, data: EvalSet, seed: int) -> pa.Table:
        """The rows of this set in ranks.parquet; `nll` is null where the method has no probabilities."""
        n = len(data)
        return pa.concat_tables(
            pa.table(
                {
                    "set": pa.array([data.name] * n, pa.string()),
                    "protocol": pa.array([protocol] * n, pa.string()),
                    "user": pa.array(data.targets.user, pa.int64()),
                    "target": pa.array(data.targets.target, pa.int32()),
                    "n_better": pa.array(self.n_better[protocol], pa.int32()),
                    "n_tied": pa.array(self.n_tied[protocol], pa.int32()),
                    "n_candidates": pa.array(self.n_candidates[protocol], pa.int32()),
                    "nll": pa.array(self.nll, pa.float32(), from_pandas=True),
                    "seed": pa.array(np.full(n, seed), pa.int32()),
                }
            )
            for protocol in self.n_better
        )


def slice_table(data: EvalSet) -> pa.Table:
    """The rows of this set in slices.parquet: one per slice and user in it, so that methods can be compared on a slice
    alone."""
    parts = data.slices()
    users = [data.targets.user[mask] for mask in parts.values()]
    lengths = [len(user) for user in users]
    return pa.table(
        {
            "set": pa.array([data.name] * sum(lengths), pa.string()),
            "slice": pa.array(np.repeat(list(parts), lengths).tolist(), pa.string()),
            "user": pa.array(np.concatenate([np.zeros(0, np.int64), *users]), pa.int64()),
        }
    )


def collect(method: Method, data: EvalSet, name: str) -> Collected:
    """Rank every user of a set under every protocol. Scores that are not finite are a `UserError`."""
    return put_together(data, (piece_of(batch, data, name) for batch in method.score(data)))


def put_together(data: EvalSet, pieces: Iterable[Piece]) -> Collected:
    """The pieces of all batches in their order, in which scores are summed."""
    n = len(data)
    collected = Collected(
        nll=np.full(n, np.nan),
        top=np.zeros((n, min(TOP, len(data.items))), np.int64),
        score_sum=np.zeros(len(data.items)),
    )
    done = np.zeros(n, np.int64)
    for piece in pieces:
        done[piece.users] += 1
        collected.add(piece)
    assert (done == 1).all(), "a method must score every user once"
    return collected


def set_results(data: EvalSet, seeds: Sequence[Collected], facts: dict[str, Any], spec: EvaluateSpec) -> dict[str, Any]:
    """The entry of one set in results.json, from what each seed of the method collected. What has no mean is of the
    first seed.

    The NLL is over the whole unmasked catalogue, so it stands with `full` alone.
    """
    first = seeds[0]
    nll = (
        None if any(np.isnan(of_seed.nll).any() for of_seed in seeds) else np.stack([of_seed.nll for of_seed in seeds])
    )
    result = {
        "users": len(data),
        "items": len(data.items),
        "too_small": data.too_small,
        "history_masked": data.history_masked,
        "uniform_nll": float(np.log(len(data.items))),
        **({} if data.overlap_terciles is None else {"overlap_terciles": list(data.overlap_terciles)}),
        "protocols": {
            protocol: summary(
                np.stack([of_seed.n_better[protocol] for of_seed in seeds]),
                np.stack([of_seed.n_tied[protocol] for of_seed in seeds]),
                nll if protocol == FULL else None,
                samples=spec.bootstrap,
                seed=spec.seed,
            )
            for protocol in first.n_better
        },
        "slices": {},
        **facts,
    }
    if FULL not in first.n_better:
        return result
    better, tied = (np.stack([getattr(of_seed, name)[FULL] for of_seed in seeds]) for name in ("n_better", "n_tied"))
    values = {metric: value.mean(axis=0) for metric, value in per_user(better, tied).items()}
    if nll is not None:
        values["nll"] = nll.mean(axis=0)
    result["slices"] = {
        name: {"users": int(mask.sum()), **{metric: float(value[mask].mean()) for metric, value in values.items()}}
        for name, mask in data.slices().items()
    }
    if not first.flat:  # which ten of equals are the top would be an accident
        result |= _top_facts(data, first)
    return result


def _top_facts(data: EvalSet, collected: Collected) -> dict[str, float]:
    percentile = stats.rankdata(data.train_count, method="average") / len(data.train_count)
    length = [len(title) for title in data.titles]
    constant = len(set(length)) == 1 or np.ptp(collected.score_sum) == 0
    facts = {
        "coverage@10": float(len(np.unique(collected.top)) / len(data.items)),
        "popularity_percentile@10": float(percentile[collected.top].mean()),
    }
    if not collected.partial:
        facts["score_length_correlation"] = (
            0.0 if constant else float(stats.spearmanr(collected.score_sum, length).statistic)
        )
    return facts
