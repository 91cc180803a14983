"""GRU4Rec and SASRec: they see no future, learn the order of a toy world, are deterministic, and are evaluated like
everything else."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cprec_jax.artefact import read_json
from cprec_jax.config.build import build
from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.config.sequential import SequentialSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate.interactions import Interactions
from cprec_jax.methods import sequence_models, sequential
from tests import run_jobs as jobs

SPEC = SequentialSpec(hidden=16, layers=1, max_length=8, batch_targets=64, dropout=(0.0,), learning_rate=(1e-2,))


@pytest.fixture(scope="module", params=["gru4rec", "sasrec"])
def architecture(request: pytest.FixtureRequest) -> sequence_models.Architecture:
    return request.param


def made(architecture: sequence_models.Architecture, n_items: int = 12) -> tuple[sequential.Model, dict]:
    model = sequence_models.make(architecture, n_items, SPEC, 0.0)
    return model, model.init({"params": jax.random.key(0)}, jnp.zeros((1, 2), jnp.int32), deterministic=True)["params"]


def test_later_items_and_padding_change_nothing(architecture: sequence_models.Architecture) -> None:
    model, params = made(architecture)
    items = jnp.array([[1, 2, 3, 4, 5]])
    hidden = model.apply({"params": params}, items, deterministic=True)
    changed = model.apply({"params": params}, items.at[0, 3:].set(12), deterministic=True)
    np.testing.assert_array_equal(hidden[:, :3], changed[:, :3])
    assert np.abs(hidden[:, 3:] - changed[:, 3:]).max() > 1e-3
    earlier = model.apply({"params": params}, items.at[0, 0].set(9), deterministic=True)
    assert np.abs(hidden[:, 4] - earlier[:, 4]).max() > 1e-6, "the first item reaches the last state"


def test_loss_is_the_cross_entropy_of_the_whole_catalogue(architecture: sequence_models.Architecture) -> None:
    model, params = made(architecture)
    items = jnp.array([[1, 2, 3, 12, 12], [4, 5, 12, 12, 12]])
    scores = sequence_models.logits(params, model.apply({"params": params}, items[:, :-1], deterministic=True))
    assert scores.shape == (2, 4, 12)
    each = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.minimum(items[:, 1:], 11))
    expected = (each[0, 0] + each[0, 1] + each[1, 0]) / 3
    np.testing.assert_allclose(sequence_models.loss(model, params, items, jax.random.key(0)), expected, rtol=1e-5)
    padded = jnp.full((40, 5), 12).at[::20].set(items)  # 160 positions, of which no more than 64 are scored
    np.testing.assert_allclose(sequence_models.loss(model, params, padded, jax.random.key(0)), expected, rtol=1e-5)


def cycles(n: int = 40, n_items: int = 12) -> Interactions:
    """Every sequence walks round the items in order."""
    items = np.concatenate([(start + np.arange(11)) % n_items for start in range(n)])
    return Interactions(
        user=np.arange(n),
        offsets=np.arange(n + 1) * 11,
        items=items,
        times=np.zeros(len(items), np.int64),
        n_items=n_items,
        timed=False,
    )


def test_windows_have_every_target_once() -> None:
    windows = sequential.make_windows(cycles(), max_length=8)
    assert max(map(len, windows)) == 9 and sum(len(window) - 1 for window in windows) == 40 * 10
    seen = []
    for batch in sequential.batches(windows, 64, 12, np.random.default_rng(0)):
        assert batch.dtype == np.int32 and (batch[:, 1:] < 12).sum() <= 64
        seen += [row[row < 12].tolist() for row in batch if row[0] < 12]
    assert sorted(seen) == sorted(window.tolist() for window in windows)
    with pytest.raises(UserError, match="nothing to learn from"):
        sequential.make_windows(Interactions(**{**vars(cycles(1)), "offsets": np.array([0, 1])}), 8)


def test_steps_learn_a_cycle_and_repeat_bit_for_bit(architecture: sequence_models.Architecture) -> None:
    def train() -> tuple[dict, float]:
        model, params = made(architecture)
        state = sequential._optimizer(1e-2, 0.0).init(params)
        windows, order, loss = sequential.make_windows(cycles(), 8), np.random.default_rng(0), 0.0
        for _ in range(12):
            for batch in sequential.batches(windows, 64, 12, order):
                params, state, loss = sequential.train_step(model, 1e-2, params, state, batch, jax.random.key(1))
        return params, float(loss)

    params, loss = train()
    again, _ = train()
    assert loss < 0.3 < np.log(12)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True))


@pytest.mark.slow
def test_through_the_job(workdir: Path) -> None:
    sizes = {
        "hidden": 16,
        "layers": 1,
        "max_length": 12,
        "epochs": 3,
        "dropout": [0.1, 0.3],
        "learning_rate": [1e-2],
        "batch_targets": 512,
    }
    section = {
        "names": {"sasrec": {"kind": "sasrec"}, "popularity": {"kind": "popularity"}},
        "sets": ["Books"],
        "protocols": ["full", "u20"],
        "bootstrap": 20,
        "seeds": 2,
        "sequential": {**sizes, "validation_users": 60},
    }
    jobs.evaluate({"evaluate": section}, workdir)
    record = read_json(workdir / "results" / "sasrec" / "results.json", "evaluate")
    values = record["sets"]["Books"]
    assert record["seeds"] == [0, 1] and record["scoring_rule"] == "sasrec"
    assert len(values["tried"]) == 2 and values["validation_ndcg@10"] == max(values["tried"].values())
    assert len(values["protocols"]["full"]["by_seed"]["nll"]) == 2 and 0 < values["protocols"]["full"]["nll"] < 6
    lengths = np.diff(Corpus.open(workdir / "corpus").targets("test", "Books").offsets)
    assert values["users_with_dropped_history"] == (lengths > 12).sum() > 0
    assert values["items_dropped"] == np.maximum(lengths - 12, 0).sum()
    baseline = read_json(workdir / "results" / "popularity" / "results.json", "evaluate")
    assert baseline["seeds"] == [0]
    # the sequential section belongs to sequential methods alone
    inputs = lambda name, **sizes: jobs.made_from(  # noqa: E731
        {"evaluate": {**section, "sequential": {**section["sequential"], **sizes}}}, workdir, f"results/{name}"
    )
    assert inputs("popularity", hidden=32) == inputs("popularity") and inputs("sasrec", hidden=32) != inputs("sasrec")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 15}, "not divisible by heads"),
        ({"dropout": []}, "at least one value"),
        ({"max_length": 1}, "max_length 1"),
    ],
)
def test_mistakes_in_the_section(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(EvaluateSpec, {"sequential": change}, "config.evaluate")
