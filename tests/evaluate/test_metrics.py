"""Closed forms against brute force, rax and ir-measures; the bootstrap against scipy."""

import itertools

import ir_measures
import jax
import numpy as np
import pytest
import rax
from ir_measures import RR, Success, nDCG
from scipy import stats

from cprec_jax.evaluate.metrics import HIT_RATE_AT, METRICS, NDCG_AT, per_user, random_ranker, summary
from cprec_jax.evaluate.ranks import rank


def by_hand(place: int) -> dict[str, float]:
    """Metrics of a target at `place` (1 = first)."""
    values = {f"hr@{k}": float(place <= k) for k in HIT_RATE_AT}
    values |= {f"ndcg@{k}": float(place <= k) / np.log2(1 + place) for k in NDCG_AT}
    return {**values, "mrr": 1 / place}


def scores(
    seed: int, users: int = 40, candidates: int = 60, levels: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = (
        rng.normal(size=(users, candidates))
        if levels is None
        else rng.integers(0, levels, (users, candidates)).astype(float)
    )
    return values, rng.integers(0, candidates, users)


@pytest.mark.parametrize(("better", "tied"), [(0, 0), (0, 3), (4, 2), (9, 1), (9, 40), (99, 5), (200, 0), (0, 500)])
def test_expectation_over_broken_ties(better: int, tied: int) -> None:
    expected = [by_hand(place) for place in range(better + 1, better + tied + 2)]
    found = per_user(np.array([better]), np.array([tied]))
    assert set(found) == set(METRICS)
    for name in METRICS:
        assert found[name][0] == pytest.approx(np.mean([e[name] for e in expected]), abs=1e-12)


def test_every_order_of_a_small_tie() -> None:
    """Scores with ties, all permutations of the candidates, and a ranker that breaks ties by place."""
    values, target = np.array([3.0, 1.0, 3.0, 3.0, 0.0, 1.0]), 2
    places = []
    for order in itertools.permutations(range(6)):
        ranked = sorted(order, key=lambda c: -values[c])  # stable: ties stay in the order of the permutation
        places.append(ranked.index(target) + 1)
    ranks = rank(values[None], np.array([target]))
    found = per_user(ranks.n_better, ranks.n_tied)
    for name in METRICS:
        assert found[name][0] == pytest.approx(np.mean([by_hand(place)[name] for place in places]))


def test_without_ties_equal_to_ir_measures() -> None:
    values, target = scores(0)
    qrels = [ir_measures.Qrel(str(u), str(t), 1) for u, t in enumerate(target)]
    run = [
        ir_measures.ScoredDoc(str(u), str(c), values[u, c]) for u in range(len(values)) for c in range(values.shape[1])
    ]
    ours = {Success @ k: f"hr@{k}" for k in HIT_RATE_AT} | {nDCG @ k: f"ndcg@{k}" for k in NDCG_AT} | {RR: "mrr"}
    ranks = rank(values, target)
    found = summary(ranks.n_better, ranks.n_tied, None, samples=0)
    for measure, value in ir_measures.calc_aggregate(list(ours), qrels, run).items():
        assert found[ours[measure]] == pytest.approx(value, abs=1e-6), measure


def test_without_ties_equal_to_rax() -> None:
    values, target = scores(1)
    labels = np.zeros(values.shape)
    labels[np.arange(len(target)), target] = 1
    where = np.ones(values.shape, bool)
    ranks = rank(values, target)
    found = summary(ranks.n_better, ranks.n_tied, None, samples=0)
    assert found["mrr"] == pytest.approx(float(rax.mrr_metric(values, labels, where=where)), abs=1e-6)
    for k in NDCG_AT:
        assert found[f"ndcg@{k}"] == pytest.approx(
            float(rax.ndcg_metric(values, labels, topn=k, where=where)), abs=1e-6
        )
    for k in HIT_RATE_AT:
        assert found[f"hr@{k}"] == pytest.approx(
            float(rax.recall_metric(values, labels, topn=k, where=where)), abs=1e-6
        )


def test_with_ties_equal_to_rax_on_average() -> None:
    """rax breaks ties at random when it is given a key; our closed form is what that converges to."""
    values, target = scores(2, users=8, candidates=20, levels=4)
    labels = np.zeros(values.shape)
    labels[np.arange(len(target)), target] = 1
    where = np.ones(values.shape, bool)

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        mrr = rax.mrr_metric(values, labels, where=where, key=key)
        return mrr, rax.ndcg_metric(values, labels, topn=10, where=where, key=key)

    mrr, ndcg = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000))
    ranks = rank(values, target)
    assert ranks.n_tied.max() > 2
    found = summary(ranks.n_better, ranks.n_tied, None, samples=0)
    assert found["mrr"] == pytest.approx(float(mrr.mean()), abs=0.005)
    assert found["ndcg@10"] == pytest.approx(float(ndcg.mean()), abs=0.005)


def test_all_scores_equal_is_the_random_row() -> None:
    """FACTS: HR@1 .05, HR@5 .25, HR@10 .50, NDCG@5 .1474, NDCG@10 .2272, MRR .1799 for 20 candidates."""
    ranks = rank(np.zeros((7, 20)), np.arange(7))
    found = summary(ranks.n_better, ranks.n_tied, np.full(7, np.log(20)), samples=0)
    assert found == pytest.approx(random_ranker(20))
    names = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")
    assert [round(found[name], 4) for name in names] == [0.05, 0.25, 0.5, 0.1474, 0.2272, 0.1799]
    assert random_ranker(3)["hr@5"] == 1.0


def test_a_random_ranker_converges_to_its_closed_form() -> None:
    values, target = scores(5, users=20_000, candidates=30)
    ranks = rank(values, target)
    found, expected = summary(ranks.n_better, ranks.n_tied, None, samples=0), random_ranker(30)
    for name in METRICS:
        assert found[name] == pytest.approx(expected[name], abs=0.01)


def test_intervals_agree_with_scipy_and_are_seeded() -> None:
    rng = np.random.default_rng(0)
    better, tied = rng.geometric(0.05, 400) - 1, rng.integers(0, 3, 400)
    nll = rng.gamma(3, 2, 400)
    found = summary(better, tied, nll, samples=4000, seed=1)
    values = {**per_user(better, tied), "nll": nll}
    for name in ("hr@10", "mrr", "nll"):
        expected = stats.bootstrap(
            (values[name],), np.mean, n_resamples=4000, method="percentile", rng=2
        ).confidence_interval
        assert found["ci95"][name] == pytest.approx(
            [expected.low, expected.high], abs=0.1 * (expected.high - expected.low)
        )
    assert found == summary(better, tied, nll, samples=4000, seed=1)
    assert found["ci95"] != summary(better, tied, nll, samples=4000, seed=2)["ci95"]
    assert "nll" not in summary(better, tied, None, samples=10)["ci95"]


def test_the_order_of_users_changes_no_mean() -> None:
    rng = np.random.default_rng(0)
    better, tied = rng.integers(0, 50, (2, 100))
    order = rng.permutation(100)
    assert summary(better, tied, None, samples=0) == pytest.approx(summary(better[order], tied[order], None, samples=0))
