import numpy as np
import pytest

from cprec_jax.config.corpus import SyntheticSpec
from cprec_jax.errors import UserError
from data_prep.adapters.synthetic import SyntheticAdapter, make_world, next_item_distribution
from tests.run_jobs import corpus_spec

DOMAINS = ["beauty", "toys", "kitchen", "garden"]
SMALL = SyntheticSpec(users=300, items=40, tastes=5, interactions=12.0)


def hit_rate(scores: np.ndarray, target: np.ndarray, k: int = 10) -> float:
    """HR@k, tie-expected."""
    target_scores = scores[np.arange(len(target)), target][:, None]
    better, tied = (scores > target_scores).sum(axis=1), (scores == target_scores).sum(axis=1)
    return float(np.clip((k - better) / tied, 0, 1).mean())


def test_distribution_is_the_documented_formula():
    world = make_world(SMALL, ["toys"], seed=3)
    seen_BN = np.zeros((2, 40), bool)
    seen_BN[1, [7, 12]] = True
    p_BN = next_item_distribution(SMALL, world.favour_UK[:2], world.share_MN[0], np.array([-1, 12]), seen_BN)
    for b, previous in ((0, None), (1, 12)):
        weight = []
        for i in range(40):
            favour = world.favour_UK[b, i % 5]
            bracket = favour if previous is None else SMALL.stay * (i % 5 == previous % 5) + (1 - SMALL.stay) * favour
            weight.append(0.0 if seen_BN[b, i] else bracket * world.share_MN[0, i])
        np.testing.assert_allclose(p_BN[b], np.array(weight) / sum(weight), rtol=1e-12)
    np.testing.assert_allclose(p_BN.sum(axis=1), 1.0, rtol=1e-12)


def test_first_items_are_drawn_with_their_probabilities():
    """Empirical frequencies of first items against the exact expectation, summed over users."""
    world = make_world(SyntheticSpec(users=5000, items=40, tastes=5, interactions=6.0), ["toys"], seed=1)
    first = np.concatenate([[True], world.user[1:] != world.user[:-1]])
    counts = np.bincount(world.item[first], minlength=40)
    spec = SyntheticSpec(users=5000, items=40, tastes=5)
    p_BN = next_item_distribution(
        spec, world.favour_UK, world.share_MN[0], np.full(5000, -1), np.zeros((5000, 40), bool)
    )
    expected, variance = p_BN.sum(axis=0), (p_BN * (1 - p_BN)).sum(axis=0)
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(variance))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_oracle_is_calibrated_on_the_corpus(synthetic_corpus, split):
    """If targets really come from the stored distribution, the mean of -log p(target) is its mean entropy, within
    sampling error."""
    for name in DOMAINS:
        p_BN = synthetic_corpus.oracle(split, name).astype(np.float64)
        np.testing.assert_allclose(p_BN.sum(axis=1), 1.0, rtol=1e-5)
        targets = synthetic_corpus.targets(split, name)
        target = np.searchsorted(synthetic_corpus.catalogue(name), targets.target)
        log_p_BN = np.log(np.where(p_BN > 0, p_BN, 1.0))
        nll = -log_p_BN[np.arange(len(target)), target]
        surprise = nll + (p_BN * log_p_BN).sum(axis=1)
        assert np.all(p_BN[np.arange(len(target)), target] > 0)
        assert abs(surprise.mean()) < 4 * surprise.std() / np.sqrt(len(target))


def test_taste_dominates_popularity_and_is_readable_from_the_last_title(synthetic_corpus):
    for name in DOMAINS:
        targets, catalogue = synthetic_corpus.targets("test", name), synthetic_corpus.catalogue(name)
        assert len(targets) >= 1000
        target = np.searchsorted(catalogue, targets.target)
        train_count = synthetic_corpus.items.train_count[catalogue].astype(float)
        taste = np.array([synthetic_corpus.items.title[item].split()[0] for item in catalogue])
        last = np.searchsorted(catalogue, targets.items[targets.offsets[1:] - 1])
        reader_BN = train_count[None, :] + 1e6 * (taste[None, :] == taste[last][:, None])
        rows = np.repeat(np.arange(len(target)), np.diff(targets.offsets))
        reader_BN[rows, np.searchsorted(catalogue, targets.items)] = -1.0
        oracle = hit_rate(synthetic_corpus.oracle("test", name), target)
        popularity = hit_rate(np.broadcast_to(train_count, reader_BN.shape), target)
        assert 0.35 < oracle < 0.7
        assert oracle > 6 * popularity
        assert hit_rate(reader_BN, target) > 0.8 * oracle


def test_titles_are_unique_and_tastes_are_shared_by_all_domains(synthetic_corpus):
    titles = synthetic_corpus.items.title
    assert len(set(titles)) == len(titles) == 1200
    tastes_by_domain = [{titles[item].split()[0] for item in synthetic_corpus.catalogue(name)} for name in DOMAINS]
    assert all(tastes == tastes_by_domain[0] for tastes in tastes_by_domain) and len(tastes_by_domain[0]) == 20


def test_times_rise_strictly_and_items_never_repeat():
    world = make_world(SyntheticSpec(users=400, items=40, tastes=5, interactions=30.0, days=1), DOMAINS, seed=0)
    assert np.all((np.diff(world.time) > 0) | (np.diff(world.user) > 0))
    keys = (world.user * 4 + world.domain) * 40 + world.item
    assert len(np.unique(keys)) == len(keys)


def test_seeded():
    assert np.array_equal(make_world(SMALL, DOMAINS, seed=1).item, make_world(SMALL, DOMAINS, seed=1).item)
    assert not np.array_equal(
        make_world(SMALL, DOMAINS, seed=1).time[:50], make_world(SMALL, DOMAINS, seed=2).time[:50]
    )


def test_more_items_than_titles_is_refused():
    source = {"a": {"role": "pretrain", "adapter": "synthetic"}}
    with pytest.raises(UserError, match=r"config.corpus.synthetic: at most"):
        SyntheticAdapter(corpus_spec({"corpus": {"sources": source, "synthetic": {"items": 5000}}}))
