"""Baselines that count, against plain Python and against `implicit`."""

import dataclasses
import itertools
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from cprec_jax import artefact
from cprec_jax.config.build import build
from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate.collect import collect
from cprec_jax.evaluate.eval_set import EvalSet, open_set
from cprec_jax.evaluate.interactions import DAY, Interactions, interactions
from cprec_jax.methods.counting import Counted, DecayedPopularity, ItemKNN, LastItems, Markov
from tests import run_jobs as jobs

ALL = [DecayedPopularity, LastItems, Markov, ItemKNN]


@pytest.fixture(scope="module")
def corpus(tiny_rows: Path) -> Corpus:
    return Corpus.open(tiny_rows / "corpus")


@pytest.fixture(scope="module")
def one_out(tiny_rows: Path) -> Corpus:
    """The same corpus, said to be split by leave-one-out: only there the histories may be counted."""
    corpus = Corpus.open(tiny_rows / "corpus")
    vars(corpus)["sets"] = {
        name: dataclasses.replace(info, split="leave_one_out") for name, info in corpus.sets.items()
    }
    return corpus


@pytest.fixture(scope="module", params=["Books", "Garden"])  # a pre-training domain and a downstream set
def data(request: pytest.FixtureRequest, corpus: Corpus) -> EvalSet:
    return open_set(corpus, request.param, "test", ("full", "u20"), True, 60, 0)


def sequences(train: Interactions) -> list[list[int]]:
    return [train.items[a:b].tolist() for a, b in zip(train.offsets[:-1], train.offsets[1:], strict=True)]


def history(data: EvalSet, user: int) -> list[int]:
    items = data.targets.items[data.targets.offsets[user] : data.targets.offsets[user + 1]]
    return np.searchsorted(data.items, items).tolist()


def test_markov_counts_pairs(corpus: Corpus, data: EvalSet) -> None:
    train = interactions(corpus, data, "train")
    pairs: dict[int, Counter] = defaultdict(Counter)
    for row in sequences(train):
        for before, after in itertools.pairwise(row):
            pairs[before][after] += 1
    raw = Markov().fit(train, None).raw(data, np.arange(len(data)))
    for user in range(len(data)):
        expected = np.zeros(len(data.items))
        for item, n in pairs[history(data, user)[-1]].items():
            expected[item] = n
        assert np.array_equal(raw[user], expected)


def test_item_knn_is_the_cosine_of_user_sets(corpus: Corpus, data: EvalSet) -> None:
    train = interactions(corpus, data, "train")
    users_of = defaultdict(set)
    for user, row in enumerate(sequences(train)):
        for item in row:
            users_of[item].add(user)

    def cosine(i: int, j: int) -> float:
        both = len(users_of[i] & users_of[j])
        return both / math.sqrt(len(users_of[i]) * len(users_of[j])) if both and i != j else 0.0

    raw = ItemKNN().fit(train, 0.8).raw(data, np.arange(5))
    for user in range(5):
        expected = [
            sum(0.8**age * cosine(i, j) for age, i in enumerate(reversed(history(data, user)[-10:])))
            for j in range(len(data.items))
        ]
        np.testing.assert_allclose(raw[user], expected, atol=1e-12)


def test_item_knn_equals_implicit(corpus: Corpus, data: EvalSet) -> None:
    nearest = pytest.importorskip("implicit.nearest_neighbours")
    train = interactions(corpus, data, "train")
    counts = sp.csr_matrix((np.ones(len(train.items)), (train.rows, train.items)), shape=(len(train), train.n_items))
    counts.data[:] = 1
    theirs = nearest.CosineRecommender(K=train.n_items)
    theirs.fit(counts, show_progress=False)
    similarity = np.asarray(theirs.similarity.todense())
    np.fill_diagonal(similarity, 0)
    users = np.arange(len(data))
    raw = ItemKNN().fit(train, 1.0).raw(data, users)
    expected = np.stack([similarity[history(data, user)[-10:]].sum(axis=0) for user in users])
    np.testing.assert_allclose(raw, expected, atol=1e-9)


def test_decayed_counts_halve(corpus: Corpus, data: EvalSet) -> None:
    train = interactions(corpus, data, "train")
    raw = DecayedPopularity().fit(train, 30.0).raw(data, np.arange(1))[0]
    newest = train.times.max()
    expected = np.zeros(len(data.items))
    for item, time in zip(train.items, train.times, strict=True):
        expected[item] += 0.5 ** ((newest - time) / DAY / 30)
    np.testing.assert_allclose(raw, expected)
    assert np.array_equal(DecayedPopularity().fit(train, None).raw(data, np.arange(1))[0], data.train_count)


def test_last_items_come_first_newest_first(corpus: Corpus, data: EvalSet) -> None:
    raw = LastItems().fit(interactions(corpus, data, "train"), None).raw(data, np.arange(len(data)))
    for user in range(len(data)):
        own = list(dict.fromkeys(reversed(history(data, user))))
        assert np.argsort(-raw[user], kind="stable")[: len(own)].tolist() == own
        assert np.count_nonzero(raw[user]) == len(own)


@pytest.mark.parametrize("counter", ALL)
@pytest.mark.parametrize("fit", ["train", "history"])
def test_probabilities_sum_to_one_and_smoothing_is_chosen_on_validation(
    one_out: Corpus, data: EvalSet, counter, fit: str
) -> None:
    valid = open_set(one_out, data.name, "valid", ("full",), True, 60, 0)
    method = Counted(counter(), one_out, {data.name: valid}, fit)
    seen = 0
    for scored in method.score(data):
        assert scored.scores is not None and scored.log_probs is not None
        np.testing.assert_allclose(np.exp(scored.log_probs).sum(axis=1), 1)
        assert np.isfinite(scored.log_probs).all()
        seen += len(scored.users)
    assert seen == len(data)
    facts = method.facts()
    assert str(facts["smoothing"]) == min(facts["validation_nll"], key=facts["validation_nll"].get)
    # the recorded figure is that of the method itself on the validation split
    again = collect(method, valid, counter.__name__)
    assert again.nll.mean() == pytest.approx(min(facts["validation_nll"].values()))


def test_training_ends_before_the_targets_and_history_reaches_to_them(
    corpus: Corpus, one_out: Corpus, data: EvalSet
) -> None:
    t1 = corpus.manifest["times"]["synthetic"]["t1"]
    train, history_too = interactions(corpus, data, "train"), interactions(one_out, data, "history")
    assert train.times.max() < t1
    all_targets = corpus.targets("test", data.name)
    expected = len(all_targets.items) + sum(
        len(row)
        for user, row in zip(train.user, sequences(train), strict=True)
        if user not in set(all_targets.user.tolist())
    )
    assert len(history_too.items) == expected > len(train.items)
    last = dict(zip(history_too.user.tolist(), history_too.times[history_too.offsets[1:] - 1], strict=True))
    assert all(
        last[user] <= time for user, time in zip(all_targets.user.tolist(), all_targets.target_time, strict=True)
    )


def test_histories_are_not_counted_under_a_time_split(corpus: Corpus, data: EvalSet) -> None:
    with pytest.raises(UserError, match=rf"fit 'history' on set {data.name} would count what came after"):
        interactions(corpus, data, "history")


def test_ties_of_raw_scores_go_by_popularity(corpus: Corpus, data: EvalSet) -> None:
    scored = next(Counted(Markov(), corpus, {}, "train").score(data))
    raw = Markov().fit(interactions(corpus, data, "train"), None).raw(data, scored.users)
    assert scored.scores is not None
    zero = np.flatnonzero(raw[0] == 0)
    order = zero[np.argsort(-scored.scores[0, zero], kind="stable")]
    assert np.all(np.diff(data.train_count[order]) <= 0)
    assert scored.scores[0, zero].max() < np.min(raw[0][raw[0] > 0], initial=1)


def test_through_the_job(workdir: Path) -> None:
    kinds = ("popularity_decayed", "last_items", "markov", "item_knn")
    section = {
        "names": {kind: {"kind": kind} for kind in kinds},
        "protocols": ["full", "u20"],
        "validation_users": 30,
        "bootstrap": 20,
    }
    jobs.evaluate({"evaluate": section}, workdir)
    for kind in kinds:
        record = artefact.read_json(workdir / "results" / kind / "results.json", "evaluate")
        assert record["kind"] == kind and set(record["sets"]) == {"Books", "Games", "Garden"}
        assert record["sets"]["Books"]["fit"] == "train" and record["sets"]["Books"]["protocols"]["full"]["nll"] > 0


def test_fit_is_for_counting_baselines() -> None:
    assert build(EvaluateSpec, {"names": {"a": {"kind": "markov", "fit": "history"}}}, "x").names["a"].fit == "history"
    with pytest.raises(UserError, match="fit belongs to the kinds"):
        build(EvaluateSpec, {"names": {"a": {"kind": "random", "fit": "history"}}}, "x")
