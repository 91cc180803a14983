"""Scores of one method on one set -> ranks by protocol, NLL, and the set's entry in results.json."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.method import Method, Scored
from cprec_jax.evaluate.metrics import per_user, summary
from cprec_jax.evaluate.ranks import Ranks, rank
from cprec_jax.inference.finite import check_finite

TOP = 10
EXAMPLES = 3  # users of a set that are kept with titles, for a person to look at
FULL, UNMASKED = "full", "full_unmasked"


@dataclass(kw_only=True)
class Collected:
    """By protocol int64[n] each: better, tied and all candidates. `nll` float64[n] (NaN: the method has no
    probabilities). `top` int64[n, 10]: the columns of the ten best visible items; `score_sum` float64[N]: over all
    users; `flat`: every score was alike; `partial`: see `Scored`;
    `examples`: the first users with their history, target and top ten."""

    n_better: dict[str, np.ndarray] = field(default_factory=dict)
    n_tied: dict[str, np.ndarray] = field(default_factory=dict)
    n_candidates: dict[str, np.ndarray] = field(default_factory=dict)
    nll: np.ndarray
    top: np.ndarray
    score_sum: np.ndarray
    flat: bool = True
    partial: bool = False
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, protocol: str, users: np.ndarray, ranks: Ranks) -> None:
        for columns, values in (
            (self.n_better, ranks.n_better),
            (self.n_tied, ranks.n_tied),
            (self.n_candidates, ranks.n_candidates),
        ):
            columns.setdefault(protocol, np.zeros(len(self.nll), np.int64))[users] = values

    def table(self, data: EvalSet, seed: int) -> pa.Table:
        """`ranks.parquet` rows of this set, as in DESIGN section 2; `nll` is null where the method has no
        probabilities."""
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
    """`slices.parquet` rows of this set: one for each user of each slice, so that methods can be compared on a slice
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
    n = len(data)
    found = Collected(
        nll=np.full(n, np.nan),
        top=np.zeros((n, min(TOP, len(data.items))), np.int64),
        score_sum=np.zeros(len(data.items)),
    )
    done = np.zeros(n, np.int64)
    for batch in method.score(data):
        done[batch.users] += 1
        target = data.target[batch.users]
        if batch.scores is not None:
            check_finite(batch.scores, f"{name} on {data.name}")
            _add_full(found, data, batch, batch.scores)
        for protocol, columns in data.candidates.items():
            chosen = columns[batch.users]
            scores = batch.by_protocol.get(protocol)
            if scores is None:
                if batch.scores is None:
                    continue
                scores = np.take_along_axis(batch.scores, chosen, axis=1)
            check_finite(scores, f"{name} on {data.name}, {protocol}")
            found.add(protocol, batch.users, rank(scores, np.argmax(chosen == target[:, None], axis=1)))
        if batch.log_probs is not None:
            found.nll[batch.users] = -batch.log_probs[np.arange(len(target)), target]
    assert (done == 1).all(), "a method must score every user once"
    return found


def _add_full(found: Collected, data: EvalSet, batch: Scored, scores: np.ndarray) -> None:
    target = data.target[batch.users]
    excluded = data.excluded(batch.users)
    found.add(FULL, batch.users, rank(scores, target, excluded))
    if excluded is not None:
        found.add(UNMASKED, batch.users, rank(scores, target))
    visible = scores if excluded is None else np.where(excluded, -np.inf, scores)
    width = found.top.shape[1]
    found.top[batch.users] = np.argpartition(-visible, width - 1, axis=1)[:, :width]
    found.partial |= batch.partial
    found.flat &= bool((scores == scores[:, :1]).all())
    found.score_sum += scores.sum(axis=0, dtype=np.float64)
    found.examples += [
        _example(found, data, batch, int(row), visible[row]) for row in np.flatnonzero(batch.users < EXAMPLES)
    ]


def _example(found: Collected, data: EvalSet, batch: Scored, row: int, visible_N: np.ndarray) -> dict[str, Any]:
    """What a person needs to judge one user's recommendations: titles, with probabilities of the whole catalogue where
    there are some."""
    user = int(batch.users[row])
    target = int(data.target[user])
    top = found.top[user][np.argsort(-visible_N[found.top[user]], kind="stable")]
    history = np.searchsorted(
        data.items, data.targets.items[data.targets.offsets[user] : data.targets.offsets[user + 1]]
    )
    probability = (
        {} if batch.log_probs is None else {i: float(np.exp(batch.log_probs[row, i])) for i in (*top.tolist(), target)}
    )
    return {
        "set": data.name,
        "user": int(data.targets.user[user]),
        "history": [data.titles[i] for i in history],
        "target": data.titles[target],
        "rank": float(1 + found.n_better[FULL][user] + found.n_tied[FULL][user] / 2),
        "probability": probability.get(target),
        "top": [[data.titles[i], probability.get(i)] for i in top.tolist()],
    }


def set_results(data: EvalSet, seeds: Sequence[Collected], facts: dict[str, Any], spec: EvaluateSpec) -> dict[str, Any]:
    """The entry of one set in results.json, from what each seed of the method collected; what is no mean is that of the
    first seed.

    The NLL is over the whole unmasked catalogue, so it stands with `full` alone.
    """
    found = seeds[0]
    nll = None if any(np.isnan(one.nll).any() for one in seeds) else np.stack([one.nll for one in seeds])
    result = {
        "users": len(data),
        "items": len(data.items),
        "too_small": data.too_small,
        "history_masked": data.history_masked,
        "uniform_nll": float(np.log(len(data.items))),
        **({} if data.overlap_terciles is None else {"overlap_terciles": list(data.overlap_terciles)}),
        "protocols": {
            protocol: summary(
                np.stack([one.n_better[protocol] for one in seeds]),
                np.stack([one.n_tied[protocol] for one in seeds]),
                nll if protocol == FULL else None,
                samples=spec.bootstrap,
                seed=spec.seed,
            )
            for protocol in found.n_better
        },
        "slices": {},
        **facts,
    }
    if FULL not in found.n_better:
        return result
    better, tied = (np.stack([getattr(one, name)[FULL] for one in seeds]) for name in ("n_better", "n_tied"))
    values = {metric: value.mean(axis=0) for metric, value in per_user(better, tied).items()}
    if nll is not None:
        values["nll"] = nll.mean(axis=0)
    result["slices"] = {
        name: {"users": int(mask.sum()), **{metric: float(value[mask].mean()) for metric, value in values.items()}}
        for name, mask in data.slices().items()
    }
    if not found.flat:  # which ten of equals are the top would be an accident
        result |= _top_facts(data, found)
    return result


def _top_facts(data: EvalSet, found: Collected) -> dict[str, float]:
    percentile = stats.rankdata(data.train_count, method="average") / len(data.train_count)
    length = [len(title) for title in data.titles]
    constant = len(set(length)) == 1 or np.ptp(found.score_sum) == 0
    facts = {
        "coverage@10": float(len(np.unique(found.top)) / len(data.items)),
        "popularity_percentile@10": float(percentile[found.top].mean()),
    }
    if not found.partial:
        facts["score_length_correlation"] = (
            0.0 if constant else float(stats.spearmanr(found.score_sum, length).statistic)
        )
    return facts
