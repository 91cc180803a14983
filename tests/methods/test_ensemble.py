"""`ensemble`: the product of its members' distributions, by weights that validation chooses; members in any order of
users."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cprec_jax.artefact import read_json
from cprec_jax.config.build import build
from cprec_jax.config.evaluate import EnsembleSpec, EvaluateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate.collect import collect
from cprec_jax.evaluate.eval_set import EvalSet, open_set
from cprec_jax.evaluate.method import Scored
from cprec_jax.evaluate.metrics import per_user
from cprec_jax.evaluate.ranks import rank
from cprec_jax.evaluate.ranks_file import read_user_metrics
from cprec_jax.methods import sequential
from cprec_jax.methods.ensemble import Ensemble, Form, _Rivals, simplex
from tests import run_jobs as jobs

SPEC = EnsembleSpec(parts=4, temperatures=(0.5, 1.0, 2.0), validation_users=30)


class Fixed:
    """Random distributions, in which the target is somewhat likelier by `skill`; users in batches of 7, the last ones
    first."""

    def __init__(self, seed: int, skill: float, partial: bool = False):
        self._seed, self._skill, self._partial = seed, skill, partial

    def log_probs(self, data: EvalSet) -> np.ndarray:
        scores = np.random.default_rng([self._seed, len(data.split)]).normal(size=(len(data), len(data.items)))
        scores[np.arange(len(data)), data.target] += self._skill
        return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)

    def score(self, data: EvalSet) -> Iterator[Scored]:
        values = self.log_probs(data)
        for stop in range(len(data), 0, -7):
            users = np.arange(max(stop - 7, 0), stop)
            yield Scored(users=users, scores=values[users], log_probs=values[users], partial=self._partial)

    def facts(self) -> dict[str, Any]:
        return {"seed": self._seed}


class Product:
    """What the ensemble should be, in one piece."""

    def __init__(self, parts: list[tuple[float, Fixed]]):
        self._parts = parts

    def score(self, data: EvalSet) -> Iterator[Scored]:
        values = sum(weight * member.log_probs(data) for weight, member in self._parts)
        yield Scored(users=np.arange(len(data)), scores=values, log_probs=None)

    def facts(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def corpus(tiny_rows: Path) -> Corpus:
    return Corpus.open(tiny_rows / "corpus")


@pytest.fixture(scope="module")
def data(corpus: Corpus) -> EvalSet:
    return open_set(corpus, "Books", "test", ("full",), True, 40, 0)


def test_it_is_the_product_with_the_weights_that_it_records(corpus: Corpus, data: EvalSet) -> None:
    members = {"a": Fixed(1, 2.0), "b": Fixed(2, 2.0), "c": Fixed(3, 0.0)}
    method = Ensemble(members, SPEC, corpus)
    scored = list(method.score(data))
    facts = method.facts()
    weights, temperature = facts["weights"], facts["temperature"]
    assert sum(weights.values()) == pytest.approx(1) and weights["c"] < min(weights["a"], weights["b"]), (
        "c knows nothing"
    )
    product = sum(weights[name] * member.log_probs(data) for name, member in members.items())
    np.testing.assert_allclose(np.concatenate([one.scores for one in scored]), product)
    expected = product / temperature - np.logaddexp.reduce(product / temperature, axis=1, keepdims=True)
    np.testing.assert_allclose(np.concatenate([one.log_probs for one in scored]), expected)
    assert np.array_equal(np.concatenate([one.users for one in scored]), np.arange(len(data)))
    assert facts["members"] == {"a": {"seed": 1}, "b": {"seed": 2}, "c": {"seed": 3}}


def test_validation_chooses_the_best_of_the_grid(corpus: Corpus, data: EvalSet) -> None:
    members = {"good": Fixed(1, 3.0), "bad": Fixed(2, -3.0)}
    method = Ensemble(members, SPEC, corpus)
    list(method.score(data))
    facts = method.facts()
    assert facts["weights"] == {"good": 1.0, "bad": 0.0}
    assert len(facts["tried"]) == 5 and facts["validation_ndcg@10"] == max(facts["tried"].values())
    valid = open_set(corpus, "Books", "valid", ("full",), data.history_masked, SPEC.validation_users, 0)
    alone = collect(members["good"], valid, "good")
    nll = facts["validation_nll"]
    assert nll["1.0"] == pytest.approx(alone.nll.mean(), abs=1e-5) and min(nll, key=nll.get) == str(
        facts["temperature"]
    )
    assert facts["validation_users"] == len(valid) == 30
    ndcg = lambda ranked: per_user(ranked.n_better["full"], ranked.n_tied["full"])["ndcg@10"].mean()  # noqa: E731
    assert facts["validation_ndcg@10"] == facts["tried"]["good 1, bad 0"] == pytest.approx(ndcg(alone))
    mixed = collect(Product([(0.75, members["good"]), (0.25, members["bad"])]), valid, "mixed")
    assert facts["tried"]["good 0.75, bad 0.25"] == pytest.approx(ndcg(mixed))


class Smoothed(Fixed):
    """Good scores, never negative, whose distribution a prior spoils, as that of a counting row may be."""

    def score(self, data: EvalSet) -> Iterator[Scored]:
        good = np.exp(self.log_probs(data))
        mixed = good + 30 * np.arange(len(data.items)) / len(data.items) ** 2
        log_probs = np.log(mixed / mixed.sum(axis=1, keepdims=True))
        yield Scored(users=np.arange(len(data)), scores=good, log_probs=log_probs)


def test_a_row_that_its_smoothing_spoils_takes_part_with_its_scores(corpus: Corpus, data: EvalSet) -> None:
    members = {"smoothed": Smoothed(1, 3.0), "noise": Fixed(2, 0.0)}
    method = Ensemble(members, SPEC, corpus)
    scored = np.concatenate([one.log_probs for one in method.score(data)])
    facts = method.facts()
    np.testing.assert_allclose(np.exp(scored).sum(axis=1), 1)
    assert facts["forms"]["noise"] == "probabilities" and facts["forms"]["smoothed"].startswith("scores to the power ")
    valid = open_set(corpus, "Books", "valid", ("full",), data.history_masked, SPEC.validation_users, 0)
    alone = collect(members["smoothed"], valid, "smoothed")
    ndcg = per_user(alone.n_better["full"], alone.n_tied["full"])["ndcg@10"].mean()
    assert facts["tried"]["smoothed 1, noise 0"] == pytest.approx(ndcg), "alone it ranks as the row itself"
    form = Form(power=2.0, shift=0.5)
    one = Scored(users=np.arange(1), scores=np.array([[0.0, 0.5, 1.5]]), log_probs=np.zeros((1, 3)))
    np.testing.assert_allclose(np.exp(form.of(one)), np.array([[0.25, 1.0, 4.0]]) / 5.25)


def test_rivals_give_the_ranks_of_the_whole_catalogue(data: EvalSet) -> None:
    """With ties, and with users of whom nothing stands above the target."""
    users = np.arange(len(data))
    held = np.random.default_rng(0).integers(-6, 0, (2, len(data), len(data.items))).astype(np.float32)
    held[:, users[2::3], data.target[2::3]] = 1.0
    rivals, excluded = _Rivals(held, data), data.excluded(users)
    for weights in simplex(2, 4):
        pooled = np.tensordot(np.float32(weights), held, axes=1)
        ranks = rank(pooled, data.target, excluded)
        expected = per_user(ranks.n_better, ranks.n_tied)["ndcg@10"]
        assert 0.3 < expected.mean() < 0.9 and rivals.ndcg(np.array(weights)) == pytest.approx(expected.mean())


def test_the_grid_of_weights() -> None:
    assert sorted(simplex(2, 2)) == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)] and simplex(2, 2)[0] == (0.5, 0.5)
    assert len(simplex(3, 10)) == 66 and all(abs(sum(one) - 1) < 1e-12 for one in simplex(3, 10))


def test_a_member_without_a_whole_distribution_is_refused(corpus: Corpus, data: EvalSet) -> None:
    with pytest.raises(
        UserError, match=r"config\.evaluate\.names: b has no distribution over the catalogue of Books \(ranks_to"
    ):
        list(Ensemble({"a": Fixed(1, 1.0), "b": Fixed(2, 1.0, partial=True)}, SPEC, corpus).score(data))


@pytest.mark.slow
def test_through_the_job_with_seeds_and_nothing_trained_twice(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []
    real = sequential.fit
    monkeypatch.setattr(sequential, "fit", lambda *given: fitted.append(given[4]) or real(*given))
    sizes = {
        "hidden": 16,
        "layers": 1,
        "max_length": 12,
        "epochs": 1,
        "dropout": [0.1],
        "learning_rate": [1e-2],
        "validation_users": 60,
    }
    section = {
        "names": {
            "a-both": {"kind": "ensemble", "members": ["text", "sasrec"]},
            "sasrec": {"kind": "sasrec"},
            "text": {"kind": "text_knn"},
            "two": {"kind": "ensemble", "members": ["text", "decayed"]},
            "decayed": {"kind": "popularity_decayed"},
        },
        "sets": ["Books"],
        "protocols": ["full", "u20"],
        "bootstrap": 20,
        "seeds": 2,
        "sequential": sizes,
        "text_knn": {"features": ["words 1"], "last_items": [5]},
        "ensemble": {"parts": 4, "validation_users": 40},
    }
    config = {"evaluate": section}
    jobs.evaluate(config, workdir, ["a-both", "sasrec", "two"])
    assert fitted == [0, 1]
    both, two = (read_json(workdir / "results" / name / "results.json", "evaluate") for name in ("a-both", "two"))
    assert both["seeds"] == [0, 1] and both["kind"] == both["scoring_rule"] == "ensemble" and two["seeds"] == [0]
    assert (
        set(two["sets"]["Books"]["weights"]) == {"text", "decayed"}
        and two["sets"]["Books"]["members"]["decayed"]["smoothing"] > 0
    )
    assert read_user_metrics(workdir / "results" / "a-both").values["Books"]["nll"].shape[0] == 2
    assert jobs.state(config, workdir, "results/two").word == "current"
    changed = {"evaluate": {**section, "text_knn": {"features": ["words 1-2"]}}}
    assert jobs.made_from(changed, workdir, "results/two") != jobs.made_from(config, workdir, "results/two"), (
        "its member would differ"
    )
    changed = {"evaluate": {**section, "sequential": {**sizes, "hidden": 32}}}
    assert jobs.made_from(changed, workdir, "results/two") == jobs.made_from(config, workdir, "results/two")
    assert jobs.made_from(changed, workdir, "results/a-both") != jobs.made_from(config, workdir, "results/a-both")


@pytest.mark.slow
def test_with_a_language_model(evaluated) -> None:
    names = {
        "both": {"kind": "ensemble", "members": ["model", "text"]},
        "model": {"kind": "checkpoint"},
        "text": {"kind": "text_knn"},
    }
    result, _ = evaluated(
        "both", names=names, rule="validation", temperature="validation", ensemble={"parts": 2, "validation_users": 6}
    )
    values = result["sets"]["Books"]
    assert set(values["weights"]) == {"model", "text"} and values["members"]["model"]["titles_tokenised_alike"] == 0
    assert values["protocols"]["full"]["nll"] > 0
    with pytest.raises(UserError, match="model has no distribution over the catalogue"):
        evaluated("both", names=names, ranks_to=100, ensemble={"validation_users": 6})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"e": {"kind": "ensemble"}}, "needs the names of two or three rows"),
        ({"e": {"kind": "ensemble", "members": ["a"]}, "a": {"kind": "random"}}, "two or three rows"),
        (
            {"e": {"kind": "ensemble", "members": ["a", "a", "b"]}, "a": {"kind": "random"}, "b": {"kind": "random"}},
            "named twice",
        ),
        (
            {
                "e": {"kind": "ensemble", "members": ["a", "sasrek"]},
                "a": {"kind": "random"},
                "sasrec": {"kind": "sasrec"},
            },
            "mean 'sasrec'",
        ),
        (
            {
                "e": {"kind": "ensemble", "members": ["a", "f"]},
                "a": {"kind": "random"},
                "f": {"kind": "scores", "path": "x"},
            },
            "takes no part",
        ),
        ({"e": {"kind": "markov", "members": ["a", "b"]}}, "members belongs to the kind 'ensemble'"),
    ],
)
def test_mistakes(names: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(EvaluateSpec, {"names": names}, "config.evaluate")
