"""Is one method better than another? Paired tests over users and seeds, corrected for the number of comparisons.

Wilcoxon and sign tests have inflated error on such data (arXiv 2305.02461); the randomisation test has not, and needs
no distribution.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from cprec_jax.errors import UserError

DRAWN_AT_ONCE = 4_000_000  # users of all resamples together


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`method` against `reference` on one set and metric: means over users, their difference with its 95 % bootstrap
    interval, the paired randomisation test's p, p after Holm's correction over all comparisons of one call, the t-test
    over seeds (None with one seed), and the effect size (mean difference over its standard deviation)."""

    method: str
    reference: str
    set_name: str
    metric: str
    users: int
    value: float
    reference_value: float
    difference: float
    ci95: tuple[float, float]
    p: float
    p_holm: float
    p_seeds: float | None
    effect: float


@dataclass(frozen=True, kw_only=True, eq=False)
class UserMetrics:
    """One results directory under one protocol. By set: users int64[n] ascending, and by metric float64[seeds, n].

    deterministic: every seed gives the same. masked: by set, whether items of the history were left out of the
    ranking; a set is missing where the results do not say it, or where the protocol's candidates do not depend on it.
    rule: how a language model scored titles (other methods: empty). oracle: it is the oracle, which is no method.
    expected: the metrics are the closed form of a random ranking. without_score: by set, how many pairs of user and
    item a file of scores left out. too_small: the sets of which the corpus has few users.
    """

    name: str
    corpus_hash: str
    deterministic: bool
    users: Mapping[str, np.ndarray]
    values: Mapping[str, Mapping[str, np.ndarray]]
    split: str = "test"
    protocol_version: Any = None
    masked: Mapping[str, bool] = field(default_factory=dict)
    rule: str = ""
    oracle: bool = False
    expected: bool = False
    too_small: frozenset[str] = frozenset()
    without_score: Mapping[str, int] = field(default_factory=dict)


def paired_randomisation(a: np.ndarray, b: np.ndarray, samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the mean of a - b (float[n], one per user) when each user's two values are swapped at random.

    The observed assignment counts as one of the samples, so p is never 0.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    difference = difference[difference != 0]  # equal pairs change nothing when swapped
    if not len(difference):
        return 1.0
    rng = np.random.default_rng(seed)
    observed = abs(difference.sum())
    limit = observed - 1e-12 * np.abs(difference).sum()  # sums in another order differ in the last digits
    extreme = 0
    chunk = _resamples_at_once(len(difference), 500)
    for start in range(0, samples, chunk):
        swapped = rng.integers(0, 2, (min(chunk, samples - start), len(difference)), np.int8)
        # The sum of +-d is the total minus twice what is swapped.
        extreme += int(np.count_nonzero(np.abs(difference.sum() - 2 * (swapped @ difference)) >= limit))
    return (extreme + 1) / (samples + 1)


def _resamples_at_once(n: int, most: int) -> int:
    """How many resamples of n users are drawn at a time: tens of megabytes, whatever the set."""
    return max(1, min(most, DRAWN_AT_ONCE // n))


def t_test_over_seeds(a: np.ndarray, b: np.ndarray) -> float | None:
    """Two-sided p of a paired t-test over seeds (float[seeds] means); None with fewer than two, or where every seed
    differs by the same."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) != len(b):
        raise UserError(
            f"a paired test needs the same seeds on both sides, got {len(a)} and {len(b)}; evaluate both with the "
            "same seeds"
        )
    if len(a) < 2:
        return None
    if np.ptp(a - b) == 0:  # no variance to test against: two seeds may agree by chance
        return 1.0 if a[0] == b[0] else None
    return float(stats.ttest_rel(a, b).pvalue)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: float64[m], in the order given; rejecting what is below alpha keeps the family-wise
    error below it."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    out = np.empty_like(values)
    out[order] = np.minimum(adjusted, 1)
    return out


def effect_size(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's d of paired values: mean of a - b over its standard deviation; 0 when they are equal everywhere."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    deviation = difference.std(ddof=1) if len(difference) > 1 else 0.0
    return float(difference.mean() / deviation) if deviation else 0.0


def on_common_users(results: Sequence[UserMetrics]) -> list[UserMetrics]:
    """The results, cut to the users of each set that all results with that set have ranked; sets without such users are
    left out."""
    common: dict[str, np.ndarray] = {}
    for result in results:
        for name, user in result.users.items():
            common[name] = np.intersect1d(common[name], user) if name in common else user
    cut = []
    for result in results:
        columns = {
            name: np.searchsorted(user, common[name]) for name, user in result.users.items() if len(common[name])
        }
        values = {
            name: {metric: v[:, column] for metric, v in result.values[name].items()}
            for name, column in columns.items()
        }
        cut.append(dataclasses.replace(result, users={name: common[name] for name in columns}, values=values))
    return cut


def compare(
    method: UserMetrics,
    references: Sequence[UserMetrics],
    metrics: Sequence[str] = ("hr@10", "ndcg@10"),
    samples: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """`method` against every reference on every set that both have, Holm-corrected over all of them, a metric at a
    time.

    Results of another corpus, split or protocol version, of other users, or with other items in the ranking, are a
    `UserError`: they cannot be paired. So are language models of which any two have different scoring rules. The oracle
    must fit as well, and is not tested; nor is the closed form of random: an expectation does not vary as hits do, so
    that swapping the two would find chance significant.
    """
    _check_rules([method, *references])
    rows: list[Comparison] = []
    for metric in metrics:
        of_metric: list[dict] = []
        for reference in references:
            _check_pair(method, reference)
            for set_name in () if reference.oracle or reference.expected or method.expected else method.values:
                if metric in method.values[set_name] and metric in reference.values.get(set_name, {}):
                    pair = (method.values[set_name][metric], reference.values[set_name][metric])
                    names = {"method": method.name, "reference": reference.name, "set_name": set_name, "metric": metric}
                    by_seed = _seeds(method, reference, *pair)
                    p_seeds = None if by_seed is None else t_test_over_seeds(*by_seed)
                    of_metric.append(names | _compare_pair(*pair, samples, seed) | {"p_seeds": p_seeds})
        corrected = holm([row["p"] for row in of_metric])
        rows += [Comparison(**row, p_holm=float(p)) for row, p in zip(of_metric, corrected, strict=True)]
    return rows


def _check_rules(results: Sequence[UserMetrics]) -> None:
    rules = {result.name: result.rule for result in results if result.rule}
    if len(set(rules.values())) > 1:
        listed = ", ".join(f"{name}: {rule}" for name, rule in rules.items())
        raise UserError(
            f"results of different scoring rules do not compare ({listed}); evaluate again with "
            "--config.evaluate.rule=trie"
        )


def _check_pair(a: UserMetrics, b: UserMetrics) -> None:
    if a.corpus_hash != b.corpus_hash:
        raise UserError(f"results {a.name!r} and {b.name!r} are of different corpora; evaluate both on the same one")
    for what, of_a, of_b in (("split", a.split, b.split), ("protocol version", a.protocol_version, b.protocol_version)):
        if of_a != of_b:
            raise UserError(
                f"results {a.name!r} and {b.name!r} are not of one {what} ({of_a} and {of_b}); evaluate both alike"
            )
    for name in sets_masked_otherwise(a, b):
        raise UserError(
            f"results {a.name!r} and {b.name!r}: set {name} was ranked without the items of the history in one and "
            "with them in the other; use the same config.evaluate.mask_history"
        )
    for name in a.users:
        if name in b.users and not np.array_equal(a.users[name], b.users[name]):
            raise UserError(
                f"results {a.name!r} and {b.name!r} ranked different users of set {name}; use the same max_users and "
                "seed"
            )


def sets_masked_otherwise(a: UserMetrics, b: UserMetrics) -> list[str]:
    """The sets of both in which one ranked the items of the history and the other did not."""
    return [name for name in a.values if name in b.values and {a.masked.get(name), b.masked.get(name)} == {True, False}]


def _seeds(
    method: UserMetrics, reference: UserMetrics, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """The means of the seeds of both, paired; None where they have different seeds. What has no seed is the same for
    all."""
    seeds = max(len(a), len(b))
    means = []
    for result, values in ((method, a), (reference, b)):
        if len(values) < seeds and not (result.deterministic and len(values) == 1):
            return None
        means.append(np.broadcast_to(values.mean(axis=1), seeds))
    return means[0], means[1]


def _bootstrap_means(difference: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means of float64[n] over resamples of it, float64[samples]."""
    rng, n = np.random.default_rng(seed), len(difference)
    chunk = _resamples_at_once(n, samples)
    sizes = [min(chunk, samples - start) for start in range(0, samples, chunk)]
    return np.concatenate([difference[rng.integers(0, n, (size, n), np.int32)].mean(axis=1) for size in sizes])


def _compare_pair(a: np.ndarray, b: np.ndarray, samples: int, seed: int) -> dict:
    """Two float64[seeds, n]. The tests over users are on each user's mean over seeds."""
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    difference = mean_a - mean_b
    low, high = np.quantile(_bootstrap_means(difference, min(samples, 2000), seed), [0.025, 0.975])
    return {
        "users": len(difference),
        "value": float(mean_a.mean()),
        "reference_value": float(mean_b.mean()),
        "difference": float(difference.mean()),
        "ci95": (float(low), float(high)),
        "p": paired_randomisation(mean_a, mean_b, samples, seed),
        "effect": effect_size(mean_a, mean_b),
    }
