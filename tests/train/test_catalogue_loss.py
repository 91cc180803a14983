"""The loss and its gradients are those of a softmax over the vocabulary with everything masked that no title allows."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.train.catalogue_loss import _adaptive, catalogue_nll_sum
from cprec_jax.train.catalogue_rows import capacities, row_columns
from cprec_jax.train.catalogue_tables import CatalogueTables, build_tables
from tests.inference.titles import random_titles
from tests.train.catalogues import HEADER, catalogue_of, mask_of, naive_sum, stored_row

V, D, T = 64, 8, 96
CATALOGUE = catalogue_of(
    [
        *random_titles(0, 40, tokens=5),  # many copies, prefixes of others, wide and narrow nodes
        *random_titles(1, 25, tokens=9, longest=3),
        *((token,) for token in range(12)),  # only the root branches
        *((3, 4, token) for token in range(7)),  # the root does not branch
    ]
)
SETS = {"a": np.arange(40), "b": np.arange(40, 65), "flat": np.arange(65, 77), "late": np.arange(77, 84)}
DOCUMENTS: list[list[list[int]]] = [
    [[0, 3, 17, 3], [41, 60, 64]],
    [[65, 70, 66], [78, 83], [39]],
    [[1, 45, 70, 80, 2, 50, 76]],  # items of every set in one document
    [],
]


def starts_of(documents: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(item, where its tokens begin) of a row of documents."""
    found, at = [], 0
    for items in documents:
        at += len(HEADER)
        for item in items:
            found.append((item, at))
            at += int(CATALOGUE.lengths[item])
    return found


def inputs(seed: int, rows: int, scale: float = 1.0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    return jnp.asarray(scale * rng.normal(size=(rows, T, D)), jnp.float32), jnp.asarray(
        rng.normal(size=(V, D)), jnp.float32
    )


def columns_of(tables: CatalogueTables, rows: list[dict[str, Any]]) -> dict[str, jax.Array]:
    made = [row_columns(tables, capacities(tables, rows), row) for row in rows]
    return {name: jnp.stack([row[name] for row in made]) for name in made[0]}


def rows_of(documents: list[list[list[int]]]) -> list[dict[str, Any]]:
    empty = {
        "tokens": np.zeros(T, np.int32),
        "lengths": np.array([T]),
        "loss": np.ones(T, np.uint8),
        "items": np.zeros(0, np.int32),
    }
    return [stored_row(CATALOGUE, row, T) if row else empty for row in documents]


@pytest.mark.parametrize("narrow", [1, 3, 64])  # all wide, both kinds, only the first ones wide
@pytest.mark.parametrize("temperature", [1.0, 2.5, (3.0, 1.0, 0.5)])
def test_value_and_gradients_equal_the_masked_softmax(narrow: int, temperature: Any) -> None:
    tables = build_tables(CATALOGUE, SETS, narrow)
    x, w = inputs(0, len(DOCUMENTS))
    columns = columns_of(tables, rows_of(DOCUMENTS))
    masks = [mask_of(CATALOGUE, SETS, starts_of(row), (T, V)) for row in DOCUMENTS]
    ours = jax.jit(
        jax.value_and_grad(lambda x, w: 3.0 * catalogue_nll_sum(x, w, columns, tables, temperature), argnums=(0, 1))
    )(x, w)
    theirs = jax.jit(jax.value_and_grad(lambda x, w: 3.0 * naive_sum(x, w, masks, temperature), argnums=(0, 1)))(x, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)
    assert float(jnp.abs(theirs[1][0]).max()) > 0.1
    assert float(catalogue_nll_sum(x, w, columns, tables, temperature)) == pytest.approx(float(ours[0]) / 3, rel=1e-6)


def test_the_probabilities_of_all_titles_sum_to_one() -> None:
    """One hidden state for every position: then every title is judged alike, wherever it stands."""
    x, w = inputs(3, 1)
    x = jnp.broadcast_to(x[:, :1], x.shape)
    for name, items in SETS.items():
        tables = build_tables(CATALOGUE, SETS, narrow=3)
        rows = rows_of([[[int(item)]] for item in items])
        found = []
        columns = columns_of(tables, rows)
        nll = jax.jit(lambda one, tables=tables: catalogue_nll_sum(x, w, one, tables))
        for row in range(len(items)):
            found.append(float(nll({key: value[row : row + 1] for key, value in columns.items()})))
        assert np.exp(-np.array(found)).sum() == pytest.approx(1.0, abs=1e-5), name


def test_large_logits_and_padding_stay_finite() -> None:
    tables = build_tables(CATALOGUE, SETS, narrow=3)
    x, w = inputs(1, len(DOCUMENTS), scale=1e3)
    columns = columns_of(tables, rows_of(DOCUMENTS))
    value, grads = jax.jit(jax.value_and_grad(lambda x: catalogue_nll_sum(x, w, columns, tables)))(x)
    assert np.isfinite(float(value)) and bool(jnp.isfinite(grads).all())
    assert not np.asarray(grads[-1]).any(), "a row without items"


def test_bfloat16_head_gradient_is_summed_in_float32() -> None:
    tables = build_tables(CATALOGUE, SETS, narrow=3)
    x, w = inputs(2, len(DOCUMENTS))
    columns = columns_of(tables, rows_of(DOCUMENTS))
    masks = [mask_of(CATALOGUE, SETS, starts_of(row), (T, V)) for row in DOCUMENTS]
    grad = jax.jit(jax.grad(lambda w: catalogue_nll_sum(x.astype(jnp.bfloat16), w, columns, tables)))(w)
    rounded = lambda a: a.astype(jnp.bfloat16).astype(jnp.float32)  # noqa: E731
    exact = jax.jit(jax.grad(lambda w: naive_sum(rounded(x), w, masks)))(rounded(w))
    assert grad.dtype == jnp.float32
    np.testing.assert_allclose(grad, exact, atol=0.05)


def test_adaptive_is_one_temperature_from_first_decisions_and_multiplies() -> None:
    tables = build_tables(CATALOGUE, SETS, narrow=3)
    x, w = inputs(4, len(DOCUMENTS), scale=2.0)
    columns = columns_of(tables, rows_of(DOCUMENTS))
    masks = [mask_of(CATALOGUE, SETS, starts_of(row), (T, V)) for row in DOCUMENTS]
    logits = np.einsum("btd,vd->btv", x, w)
    allowed, labels, levels, copies = (np.stack(values) for values in zip(*masks, strict=True))
    first = allowed.any(axis=-1) & (levels == 0)
    children = logits[first[..., None] & allowed]
    targets = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0][first]
    d, c = targets.mean() - children.mean(), np.log(0.25 * len(children) / len(targets))
    tau = float(np.clip((d + np.sqrt(max(0.0, d**2 - 2 * c * children.var()))) / (2 * c), 1.5, 5.0))
    ours = jax.jit(jax.value_and_grad(lambda x: catalogue_nll_sum(x, w, columns, tables, "adaptive")))(x)
    theirs = jax.jit(jax.value_and_grad(lambda x: tau * (naive_sum(x, w, masks, tau) - copies.sum()) + copies.sum()))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


@pytest.mark.parametrize(("spread", "lift", "expected"), [(0.1, 9.0, None), (0.1, 0.0, 1.5), (0.1, 100.0, 5.0)])
def test_the_adaptive_temperature_stays_in_bounds(spread: float, lift: float, expected: float | None) -> None:
    logits = spread * np.random.default_rng(0).normal(size=(2, 3, 50)).astype(np.float32)
    logits[:, :, 7] += lift
    used, target = np.ones(logits.shape, bool), np.full((2, 3), 7)
    tau = float(_adaptive(jnp.asarray(logits), jnp.asarray(used), jnp.asarray(target), jnp.ones((2, 3), bool)))
    if expected is None:
        d, c = lift - logits.mean() + spread * 0, np.log(0.25 * 50)
        assert 1.5 < tau < 5.0 and tau == pytest.approx(
            (d + np.sqrt(max(0, d**2 - 2 * c * logits.var()))) / (2 * c), rel=0.05
        )
    else:
        assert tau == expected
    # nothing there
    assert float(_adaptive(jnp.asarray(logits), jnp.asarray(used), jnp.asarray(target), jnp.zeros((2, 3), bool))) == 1.5
