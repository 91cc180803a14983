"""Item embeddings from titles: what they start as, that cold items keep the place of their title."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.config.build import build
from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.errors import UserError
from cprec_jax.methods import sequence_models, sequential, title_embeddings
from cprec_jax.methods.title_embeddings import SCALE, Titles, composed, from_states, from_tf_idf, initial, known
from cprec_jax.text.title_features import counts, tf_idf
from tests.methods.test_sequential import SPEC, cycles, made

TITLES = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("ball", "car", "doll", "kite")]


def cosine(a_ND: np.ndarray) -> np.ndarray:
    unit = a_ND / np.maximum(np.linalg.norm(a_ND, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def test_tf_idf_is_reduced_by_svd_to_the_best_of_that_rank() -> None:
    # no two singular values alike
    titles = [f"{title} {' '.join(TITLES[i * 5 % 12].split()[: i % 3])}" for i, title in enumerate(TITLES)]
    whole = tf_idf(counts(titles, "words 1")).toarray()
    left, sizes, _ = np.linalg.svd(whole, full_matrices=False)
    best = left[:, :4] * sizes[:4]
    best -= best.mean(axis=0)
    found = from_tf_idf(titles, 4)
    assert found.dtype == np.float32 and np.sqrt((found**2).mean()) == pytest.approx(SCALE)
    np.testing.assert_allclose(found @ found.T, best @ best.T * (SCALE**2 / (best**2).mean()), atol=1e-7)
    assert np.array_equal(found, from_tf_idf(titles, 4)), "the same every time"
    wide = from_tf_idf(TITLES, 64)
    assert wide.shape == (12, 64) and not wide[:, 12:].any()
    assert not from_tf_idf(["one"], 8).any()


def test_states_are_reduced_by_principal_components() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 20)) + 5
    found = from_states(states.astype(np.float32), 3)
    centred = states - states.mean(axis=0)
    np.testing.assert_allclose(cosine(found), cosine(centred), atol=1e-4)
    assert from_states(states, 40).shape == (30, 40)


def test_signs_do_not_depend_on_the_linear_algebra_library(monkeypatch: pytest.MonkeyPatch) -> None:
    states = np.random.default_rng(0).normal(size=(30, 20))
    expected = from_tf_idf(TITLES, 4), from_states(states, 4)
    svds, eigh = title_embeddings.sla.svds, np.linalg.eigh

    def other_svds(*given: Any, **named: Any) -> tuple[np.ndarray, ...]:
        left, sizes, right = svds(*given, **named)
        return left * [1, -1, -1, 1], sizes, right

    def other_eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, axes = eigh(matrix)
        return values, -axes

    monkeypatch.setattr(title_embeddings.sla, "svds", other_svds)
    monkeypatch.setattr(np.linalg, "eigh", other_eigh)
    np.testing.assert_array_equal(from_tf_idf(TITLES, 4), expected[0])
    np.testing.assert_array_equal(from_states(states, 4), expected[1])


@pytest.mark.slow
def test_items_start_as_their_titles_and_cold_ones_stay_a_function_of_them() -> None:
    model_, params = made("sasrec")
    features = from_tf_idf(TITLES, SPEC.hidden)
    twin = np.concatenate([features[:1], features[:1], features[2:]])  # item 1 has the title of item 0
    train = cycles()
    seen = known(np.setdiff1d(train.items, [1]), 12)
    titles = Titles(twin, seen)
    params = initial(params, titles)
    np.testing.assert_allclose(composed(params, titles)["items"][:-1], twin, atol=1e-8)
    state = sequential._optimizer(1e-2, 0.0).init(params)
    order = np.random.default_rng(0)
    for _ in range(5):
        for batch in sequential.batches(sequential.make_windows(train, 8), 64, 12, order):
            params, state, loss = sequential.train_step(model_, 1e-2, params, state, batch, jax.random.key(1), titles)
    used = composed(params, titles)
    np.testing.assert_allclose(used["items"][1], twin[1] @ params["title_map"], atol=1e-6)
    assert used["bias"][1] == 0 and np.abs(used["bias"][0]) > 0
    assert np.abs(np.asarray(used["items"][0]) - twin[0] @ np.asarray(params["title_map"])).max() > 1e-2, (
        "a known item learns its own"
    )
    assert not np.allclose(params["title_map"], np.eye(SPEC.hidden)) and np.isfinite(loss)


def test_without_titles_nothing_changes() -> None:
    model_, params = made("gru4rec")
    items = jnp.array([[1, 2, 3, 12, 12]])
    assert composed(params, None) == params
    key = jax.random.key(0)
    assert sequence_models.loss(model_, composed(params, None), items, key) == sequence_models.loss(
        model_, params, items, key
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": {"kind": "markov", "init": "titles"}}, "init belongs to the kinds 'gru4rec' and 'sasrec'"),
        (
            {"a": {"kind": "sasrec", "init": "title"}},
            "'title' is neither 'titles' nor a row of a language model; did you mean 'titles'",
        ),
        ({"a": {"kind": "sasrec", "init": "b"}, "b": {"kind": "gru4rec"}}, "'b' is neither"),
        (
            {"a": {"kind": "sasrec", "init": "b"}, "b": {"kind": "checkpoint", "step": "validation"}},
            "is of the step 'validation'",
        ),
    ],
)
def test_mistakes(names: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(EvaluateSpec, {"names": names}, "config.evaluate")
