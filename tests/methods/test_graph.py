"""`graph` against plain Python: rings of one and two hops, similarity inside them, and everything else below."""

import itertools
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from cprec_jax import artefact
from cprec_jax.config.evaluate import TextKNNSpec
from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.eval_set import EvalSet, open_set
from cprec_jax.evaluate.interactions import interactions
from cprec_jax.methods.graph import EDGES, PAD, RINGS, Graph, Transitions, Weights
from cprec_jax.methods.text_knn import TextKNN
from tests import run_jobs as jobs
from tests.methods.test_counting import history, sequences

TEXT = TextKNNSpec(features=("words 1",), weightings=("tfidf",), step_weights=(0.8,), last_items=(5,))


@pytest.fixture(scope="module")
def corpus(tiny_rows: Path) -> Corpus:
    return Corpus.open(tiny_rows / "corpus")


@pytest.fixture(scope="module", params=["Books", "Garden"])
def data(request: pytest.FixtureRequest, corpus: Corpus) -> EvalSet:
    return open_set(corpus, request.param, "test", ("full",), True, 30, 0)


def test_scores_are_those_of_plain_python(corpus: Corpus, data: EvalSet) -> None:
    train = interactions(corpus, data, "train")
    followed: dict[int, Counter] = defaultdict(Counter)
    for sequence in sequences(train):
        for before, after in itertools.pairwise(sequence):
            followed[before][after] += before != after
    text = TextKNN(TEXT, corpus)
    weights, setting, users = Weights(hop=0.3, source=0.5, edge=2.0), text.default(data), np.arange(len(data))
    similarity = text.raw(data, users, setting)
    (raw,) = Graph(text, corpus, "train").raw(Transitions(train), data, users, setting, (weights,))
    in_rings = 0
    for user in users:
        ring, edge = np.full(len(data.items), PAD), np.zeros(len(data.items))
        for factor, item in zip((1.0, 0.5), history(data, user)[::-1], strict=False):
            near = {j for j, n in followed[item].items() if n}
            far = {k for j in near for k, n in followed[j].items() if n} - near - {item}
            ring[list(near)] += factor
            ring[list(far)] += factor * 0.3
            for j in near:
                edge[j] += factor * np.log1p(followed[item][j]) / np.log1p(max(followed[item].values()))
            in_rings += len(near) + len(far)
        np.testing.assert_allclose(raw[user], similarity[user] * ring + 2.0 * edge, atol=1e-12)
    assert in_rings > len(data)


def test_an_item_without_a_second_one_before_it_has_no_second_ring(corpus: Corpus, data: EvalSet) -> None:
    transitions = Transitions(interactions(corpus, data, "train"))
    some = np.array([3, -1, 5])
    for of_all, of_some in zip(transitions.rings(some), transitions.rings(np.array([3, 5])), strict=True):
        assert not of_all[[1]].toarray().any()
        assert np.array_equal(of_all.toarray()[[0, 2]], of_some.toarray())


def test_validation_chooses_the_weights(corpus: Corpus, data: EvalSet) -> None:
    method = Graph(TextKNN(TEXT, corpus), corpus, "train")
    for scored in method.score(data):
        assert scored.log_probs is not None
        np.testing.assert_allclose(np.exp(scored.log_probs).sum(axis=1), 1)
    facts = method.facts()
    assert len(facts["tried"]) == len(RINGS) + len(EDGES) and facts["tried"][facts["weights"]] == max(
        facts["tried"].values()
    )
    assert facts["setting"].startswith("words 1, tfidf")


def test_through_the_job(workdir: Path) -> None:
    section = {"names": {"graph": {"kind": "graph"}}, "sets": ["Books"], "protocols": ["full"], "bootstrap": 0}
    jobs.evaluate({"evaluate": section}, workdir)
    record = artefact.read_json(workdir / "results" / "graph" / "results.json", "evaluate")
    assert record["sets"]["Books"]["fit"] == "train" and 0 < record["sets"]["Books"]["protocols"]["full"]["nll"] < 6
