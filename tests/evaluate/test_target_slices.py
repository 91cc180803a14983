"""Memorised, generalised and lexical overlap, against plain Python and scikit-learn; written for `compare`."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cprec_jax import artefact
from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.eval_set import EvalSet, open_set
from cprec_jax.evaluate.interactions import interactions
from cprec_jax.evaluate.ranks_file import read_user_metrics
from cprec_jax.evaluate.target_slices import best_overlap, is_memorised, target_slices
from tests import run_jobs as jobs
from tests.methods.test_counting import history, sequences


@pytest.fixture(scope="module", params=["Books", "Garden"])
def data(request: pytest.FixtureRequest, corpus: Corpus) -> EvalSet:
    return open_set(corpus, request.param, "test", ("full",), True, 80, 0)


def test_memorised_is_what_training_holds(corpus: Corpus, data: EvalSet) -> None:
    pairs = {pair for row in sequences(interactions(corpus, data, "train")) for pair in itertools.pairwise(row)}
    expected = [(history(data, user)[-1], int(target)) in pairs for user, target in enumerate(data.target)]
    found = is_memorised(corpus, data)
    assert found.tolist() == expected and 0 < sum(expected) < len(expected)


def test_overlap_is_the_best_cosine(data: EvalSet) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    vectors = text.TfidfVectorizer(token_pattern=r"(?u)\w+").fit_transform(data.titles)
    cosine = (vectors @ vectors.T).toarray()
    expected = [cosine[target, history(data, user)].max() for user, target in enumerate(data.target)]
    np.testing.assert_allclose(best_overlap(data), expected, atol=1e-12)


def test_slices_of_a_kind_hold_every_user_once(corpus: Corpus, data: EvalSet) -> None:
    found = target_slices(corpus, data)
    overlaps = np.stack([mask for name, mask in found.masks.items() if name.startswith("overlap")])
    assert (overlaps.sum(axis=0) == 1).all() and (found.masks["memorised"] ^ found.masks["generalised"]).all()
    low, high = found.overlap_terciles
    values = best_overlap(data)
    assert values[found.masks["overlap low"]].max() <= low <= high < values[found.masks["overlap high"]].min()


def test_markov_hits_what_is_memorised_alone_and_compare_can_take_a_slice(workdir: Path) -> None:
    names = {name: {"kind": name} for name in ("markov", "popularity")}
    jobs.evaluate(
        {"evaluate": {"names": names, "protocols": ["full"], "bootstrap": 0, "mask_history": "never"}}, workdir
    )
    directory = workdir / "results" / "markov"
    record = artefact.read_json(directory / "results.json", "evaluate")["sets"]["Books"]
    slices = record["slices"]
    assert slices["memorised"]["hr@10"] > slices["generalised"]["hr@10"] and len(record["overlap_terciles"]) == 2
    table = pq.read_table(directory / "slices.parquet").to_pylist()
    for name, part in slices.items():
        users = {row["user"] for row in table if (row["set"], row["slice"]) == ("Books", name)}
        metrics = read_user_metrics(directory, "full", name)
        assert set(metrics.users["Books"].tolist()) == users and len(users) == part["users"]
        assert metrics.values["Books"]["hr@10"].mean() == pytest.approx(part["hr@10"])
