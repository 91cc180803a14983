"""`text_knn` against scikit-learn and brute force; it needs no training interactions; neither users nor items have an
order."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cprec_jax import artefact
from cprec_jax.config.evaluate import TextKNNSpec
from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.collect import collect
from cprec_jax.evaluate.eval_set import EvalSet, open_set
from cprec_jax.methods import text_knn
from cprec_jax.methods.graph import Graph
from cprec_jax.methods.smoothing import TIE_BREAK
from cprec_jax.methods.text_knn import Setting, TextKNN
from tests import run_jobs as jobs

SMALL = TextKNNSpec(features=("words 1", "characters 2-3"), step_weights=(0.8, 0.5), last_items=(5, 2))


@pytest.fixture(scope="module")
def corpus(tiny_rows: Path) -> Corpus:
    return Corpus.open(tiny_rows / "corpus")


@pytest.fixture(scope="module", params=["Books", "Garden"])  # a pre-training domain and a downstream set
def data(request: pytest.FixtureRequest, corpus: Corpus) -> EvalSet:
    return open_set(corpus, request.param, "test", ("full", "u20"), True, 60, 0)


def history(data: EvalSet, user: int) -> list[int]:
    items = data.targets.items[data.targets.offsets[user] : data.targets.offsets[user + 1]]
    return np.searchsorted(data.items, items).tolist()


@pytest.mark.parametrize("own", [False, True])
def test_raw_scores_are_the_weighted_mean_cosine(corpus: Corpus, data: EvalSet, own: bool) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    vectors = text.TfidfVectorizer(token_pattern=r"(?u)\w+").fit_transform(data.titles)
    cosine = (vectors @ vectors.T).toarray()
    np.fill_diagonal(cosine, float(own))
    setting = Setting(features="words 1", weighting="tfidf", step_weight=0.8, last_items=3, own_items=own)
    raw = TextKNN(SMALL, corpus).raw(data, np.arange(len(data)), setting)
    for user in range(len(data)):
        newest = history(data, user)[-3:][::-1]
        weights = 0.8 ** np.arange(len(newest))
        np.testing.assert_allclose(raw[user], weights @ cosine[newest] / weights.sum(), atol=1e-12)
    assert raw.min() >= 0


def permuted(data: EvalSet, order: np.ndarray) -> EvalSet:
    """The same set with its items renumbered: what was item `order[i]` is the i-th now, in histories and targets,
    too."""
    place = np.argsort(order)
    columns = np.searchsorted(data.items, data.targets.items)
    targets = dataclasses.replace(data.targets, items=data.items[place[columns]], target=data.items[place[data.target]])
    return dataclasses.replace(
        data,
        targets=targets,
        target=place[data.target],
        titles=[data.titles[i] for i in order],
        train_count=data.train_count[order],
        candidates={name: place[columns] for name, columns in data.candidates.items()},
    )


def test_the_order_of_items_and_users_changes_nothing(corpus: Corpus, data: EvalSet) -> None:
    order = np.random.default_rng(1).permutation(len(data.items))
    setting = Setting(features="characters 2-3", weighting="bm25", step_weight=0.5, last_items=5, own_items=False)
    method, users = TextKNN(SMALL, corpus), np.arange(len(data))
    raw = method.raw(data, users, setting)
    assert np.array_equal(method.raw(data, users[::-1], setting)[::-1], raw)
    assert np.array_equal(TextKNN(SMALL, corpus).raw(permuted(data, order), users, setting), raw[:, order])


def test_no_training_interaction_is_needed(corpus: Corpus, data: EvalSet, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [scored.scores for scored in TextKNN(SMALL, corpus).score(data)]
    real = text_knn.interactions

    def none(*given):
        train = real(*given)
        empty = np.zeros(0, np.int64)
        return dataclasses.replace(train, user=empty, offsets=np.zeros(1, np.int64), items=empty, times=empty)

    monkeypatch.setattr(text_knn, "interactions", none)
    method = TextKNN(SMALL, corpus)
    for scored, before in zip(method.score(data), expected, strict=True):
        assert scored.scores is not None and before is not None and scored.log_probs is not None
        assert np.abs(scored.scores - before).max() <= TIE_BREAK, (
            "but for ties, nothing of the ranking is of the training"
        )
        np.testing.assert_allclose(np.exp(scored.log_probs).sum(axis=1), 1)


def test_validation_chooses_and_what_it_chose_is_recorded(corpus: Corpus, data: EvalSet) -> None:
    method = TextKNN(SMALL, corpus)
    seen = 0
    for scored in method.score(data):
        assert scored.scores is not None and scored.log_probs is not None
        np.testing.assert_allclose(np.exp(scored.log_probs).sum(axis=1), 1)
        seen += len(scored.users)
    facts = method.facts()
    assert (
        seen == len(data)
        and facts["tried"][facts["setting"]] == max(facts["tried"].values()) == facts["validation_ndcg@10"]
    )
    assert len(facts["tried"]) == 4 + 4 - 1 + (not data.history_masked)
    # the recorded figures are those of the method itself on the validation split
    valid = open_set(
        corpus, data.name, "valid", ("full",), data.history_masked, SMALL.validation_users, 0, mask_repeats=True
    )
    again = collect(method, valid, "text_knn")
    assert again.nll.mean() == pytest.approx(facts["validation_nll"])


def test_without_validation_users_the_first_values_are_taken(
    corpus: Corpus, data: EvalSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = open_set(corpus, data.name, "valid", ("full",), data.history_masked, 0, 0)
    monkeypatch.setattr(TextKNN, "validation", lambda self, data: nobody)
    for method in (text := TextKNN(SMALL, corpus), Graph(text, corpus, "train")):
        for scored in method.score(data):
            assert scored.log_probs is not None and np.isfinite(scored.log_probs).all()
    assert text.facts() == {"setting": "words 1, tfidf, step weight 0.8, last 5"}


def test_through_the_job_and_what_it_is_made_from(workdir: Path) -> None:
    section = {
        "names": {"text": {"kind": "text_knn"}, "markov": {"kind": "markov"}},
        "protocols": ["full", "u20"],
        "bootstrap": 20,
        "text_knn": {"features": ["words 1"], "last_items": [5]},
    }
    jobs.evaluate({"evaluate": section}, workdir)
    record = artefact.read_json(workdir / "results" / "text" / "results.json", "evaluate")
    assert record["kind"] == "text_knn" and set(record["sets"]) == {"Books", "Games", "Garden"}
    assert (
        record["sets"]["Books"]["setting"].startswith("words 1, ")
        and record["sets"]["Books"]["protocols"]["full"]["nll"] > 0
    )
    changed = {"evaluate": {**section, "text_knn": {"features": ["words 1-2"]}}}
    made_from = lambda config, name: jobs.made_from(config, workdir, f"results/{name}")  # noqa: E731
    inputs = [made_from(config, name) for config in ({"evaluate": section}, changed) for name in ("text", "markov")]
    assert inputs[0] != inputs[2] and inputs[1] == inputs[3]
