"""Tests of tests: against scipy, by hand, and by their error rates."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from cprec_jax.errors import UserError
from cprec_jax.evaluate import significance
from cprec_jax.evaluate.ranks_file import read_user_metrics
from cprec_jax.evaluate.significance import compare, effect_size, holm, paired_randomisation, t_test_over_seeds


def test_randomisation_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(60)
    for shift in (0.0, 0.05, 0.1):
        b = a + rng.normal(shift, 0.3, 60)
        mean = lambda x, y, axis: np.mean(x - y, axis=axis)  # noqa: E731
        expected = stats.permutation_test((a, b), mean, permutation_type="samples", n_resamples=20_000, rng=1).pvalue
        assert paired_randomisation(a, b, samples=20_000) == pytest.approx(expected, abs=0.02)


def test_randomisation_of_few_pairs_is_exact() -> None:
    """Four users who all gain alike: 2 of 16 sign patterns are as extreme."""
    assert paired_randomisation(np.ones(4), np.zeros(4), samples=50_000) == pytest.approx(2 / 16, abs=0.01)
    assert paired_randomisation(np.ones(7), np.ones(7)) == 1.0


def test_randomisation_keeps_its_error_rate() -> None:
    rng = np.random.default_rng(3)
    # hits and misses of two equally good methods
    p = [paired_randomisation(*(rng.random((2, 200)) < 0.1).astype(float), samples=400, seed=i) for i in range(300)]
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.09


def test_seeds() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 5))
    assert t_test_over_seeds(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert t_test_over_seeds(a[:1], b[:1]) is None
    assert t_test_over_seeds(np.ones(3), np.ones(3)) == 1.0
    assert t_test_over_seeds(np.ones(2), np.zeros(2)) is None  # two of hundred hits in both seeds are no certainty
    with pytest.raises(UserError, match="same seeds"):
        t_test_over_seeds(a, b[:3])


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.5]), [0.04, 0.09, 0.09, 0.5])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])
    assert len(holm([])) == 0


def test_effect_size() -> None:
    assert effect_size(np.array([2.0, 4.0]), np.array([1.0, 1.0])) == pytest.approx(2 / np.sqrt(2))
    assert effect_size(np.ones(5), np.ones(5)) == 0


def write_result(
    folder: Path,
    name: str,
    better: np.ndarray,
    corpus: str = "c",
    first_user: int = 0,
    masked: bool = True,
    **extra: Any,
) -> Path:
    """A results directory of one set with n_better int[seeds, n]."""
    directory = folder / name
    directory.mkdir()
    seeds, n = better.shape
    sets = {"Toys": {"users": n, "protocols": {}, "history_masked": masked}}
    record = {
        "name": name,
        "kind": "checkpoint",
        "corpus_hash": corpus,
        "protocol_version": 1,
        "split": "test",
        "sets": sets,
        **extra,
    }
    (directory / "results.json").write_text(json.dumps(record))
    order = np.random.default_rng(seeds).permutation(seeds * n)  # the order of rows must not matter
    columns = {
        "set": np.full(seeds * n, "Toys"),
        "protocol": np.full(seeds * n, "full"),
        "user": np.tile(np.arange(n) + first_user, seeds),
        "n_better": better.reshape(-1),
        "n_tied": np.zeros(seeds * n, int),
        "nll": np.log1p(better.reshape(-1)),
        "seed": np.repeat(np.arange(seeds), n),
    }
    pq.write_table(pa.table({key: value[order] for key, value in columns.items()}), directory / "ranks.parquet")
    return directory


def test_compare_pairs_users_and_averages_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 100, (3, 300))
    good = np.maximum(base - rng.integers(0, 40, base.shape), 0)
    method, same, other = (
        read_user_metrics(write_result(tmp_path, n, b)) for n, b in (("good", good), ("same", good), ("base", base))
    )
    rows = {(row.reference, row.metric): row for row in compare(method, [same, other], ("hr@10", "nll"), samples=2000)}
    assert set(rows) == {("same", "hr@10"), ("same", "nll"), ("base", "hr@10"), ("base", "nll")}
    better = rows["base", "hr@10"]
    assert better.users == 300 and better.difference == pytest.approx((good < 10).mean() - (base < 10).mean())
    assert better.p < 0.01 and better.p_holm == pytest.approx(2 * better.p) and better.effect > 0.2
    assert better.ci95[0] < better.difference < better.ci95[1] and better.ci95[0] > 0
    assert better.p_seeds is not None and better.p_seeds < 0.05
    equal = rows["same", "hr@10"]
    assert equal.difference == 0 and equal.p == equal.p_holm == 1 and equal.effect == 0
    assert rows["base", "nll"].difference < 0


def test_large_sets_are_resampled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 200))
    whole = significance._compare_pair(a, b, 1000, 0)
    monkeypatch.setattr(significance, "DRAWN_AT_ONCE", 200 * 7)
    pieces = significance._compare_pair(a, b, 1000, 0)
    assert pieces["ci95"] == pytest.approx(whole["ci95"]) and pieces["p"] == pytest.approx(whole["p"], abs=0.06)


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    better = np.arange(10)[None, :]
    a = read_user_metrics(write_result(tmp_path, "a", better))
    with pytest.raises(UserError, match="different corpora"):
        compare(a, [read_user_metrics(write_result(tmp_path, "b", better, corpus="d"))])
    with pytest.raises(UserError, match="different users"):
        compare(a, [read_user_metrics(write_result(tmp_path, "e", better, first_user=1))])
    with pytest.raises(UserError, match=r"'a' and 'v' are not of one split \(test and valid\)"):
        compare(a, [read_user_metrics(write_result(tmp_path, "v", better, split="valid"))])
    with pytest.raises(UserError, match=r"'a' and 'p' are not of one protocol version \(1 and 0\)"):
        compare(a, [read_user_metrics(write_result(tmp_path, "p", better, protocol_version=0))])
    with pytest.raises(
        UserError, match="set Toys was ranked without the items of the history in one and with them in the other"
    ):
        compare(a, [read_user_metrics(write_result(tmp_path, "m", better, masked=False))])
    with pytest.raises(UserError, match="no ranks under protocol 'u20'"):
        read_user_metrics(tmp_path / "a", "u20")
