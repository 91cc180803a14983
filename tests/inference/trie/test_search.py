"""Branch and bound against the ranking of the whole catalogue; a beam against both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.inference.trie import search as trie_search
from cprec_jax.inference.trie.exact import encode_for_trie, to_device, trie_log_probs
from cprec_jax.inference.trie.index import build_index
from cprec_jax.inference.trie.search import UNKNOWN, BestTitles, search
from cprec_jax.inference.trie.trie import build_trie
from tests.inference.titles import prompts, ragged, random_titles
from tests.model.tiny import tiny

LENGTHS = (9, 4, 12)
encoded = jax.jit(encode_for_trie, static_argnums=0)
scored = jax.jit(trie_log_probs, static_argnums=0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie_search, "BLOCK", 4)
    monkeypatch.setattr(trie_search, "BLOCKS", 6)
    monkeypatch.setattr(trie_search, "FEW", 2)
    monkeypatch.setattr(trie_search, "ANCESTORS", (8,))  # few shapes are compiled


def searched(
    titles: list[tuple[int, ...]], asked: np.ndarray, best: int, beam: int | None = None, **changes
) -> tuple[BestTitles, np.ndarray]:
    """What the search finds, and the exact log-probabilities of all titles."""
    temperature = changes.pop("temperature", 1.0)
    decoder, params = tiny(**changes)
    trie = build_trie(*ragged(titles))
    batch = prompts(1, LENGTHS, 12)
    cache = encoded(decoder, params, *batch)
    found = search(decoder, params, build_index(trie), cache, asked, np.full(3, best), beam, temperature)
    return found, np.asarray(scored(decoder, params, to_device(trie), *batch, temperature))


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 2.0},
        {
            "sliding_window": 6,
            "sliding_layers": (True, False, True),
            "local_rope_theta": 500.0,
            "tie_embeddings": False,
            "num_kv_heads": 1,
        },
    ],
)
def test_the_best_are_those_of_the_whole_ranking(changes: dict) -> None:
    titles = random_titles(0, 300)
    asked = np.random.default_rng(0).integers(0, 300, (3, 4))
    found, exact = searched(titles, asked, best=12, **changes)
    for row, expected, columns, bound in zip(found.log_probs, exact, asked, found.bound, strict=True):
        known = row > UNKNOWN
        np.testing.assert_allclose(row[known], expected[known], atol=1e-4)
        assert known[columns].all()
        assert expected[~known].max() <= bound + 1e-4
        assert set(np.argsort(-row, kind="stable")[:5]) <= set(np.flatnonzero(expected >= np.sort(expected)[-5] - 1e-4))
        assert (row >= bound - 1e-4).sum() >= 12
    assert found.nodes < 3 * build_trie(*ragged(titles)).nodes


def test_all_titles_wanted_is_the_whole_ranking() -> None:
    titles = random_titles(0, 60)
    found, exact = searched(titles, np.zeros((3, 1), np.int64), best=60)
    np.testing.assert_allclose(found.log_probs, exact, atol=1e-4)
    np.testing.assert_allclose(np.exp(found.log_probs).sum(axis=1), 1, atol=1e-5)


def test_a_beam_is_deterministic_and_finds_most_of_the_best() -> None:
    titles = random_titles(0, 300)
    asked = np.zeros((3, 0), np.int64)
    wide, exact = searched(titles, asked, best=12, beam=30)
    again, _ = searched(titles, asked, best=12, beam=30)
    narrow, _ = searched(titles, asked, best=12, beam=2)
    np.testing.assert_array_equal(wide.log_probs, again.log_probs)
    top = np.argsort(-exact, axis=1)[:, :12]

    def recall(found: BestTitles) -> float:
        return float((np.take_along_axis(found.log_probs, top, axis=1) > UNKNOWN).mean())

    assert recall(narrow) < recall(wide) and recall(wide) > 0.9 and narrow.nodes < wide.nodes
    known = wide.log_probs > UNKNOWN
    np.testing.assert_allclose(wide.log_probs[known], exact[known], atol=1e-4)


@pytest.mark.parametrize(
    "titles", [[(1, 2, 3)] * 2, [(t, t + 1) for t in range(0, 40, 2)], [(1, 2), (1, 2), (1, 3), (4,)]]
)
def test_tiny_catalogues(titles: list[tuple[int, ...]]) -> None:
    found, exact = searched(titles, np.zeros((3, 1), np.int64), best=len(titles))
    np.testing.assert_allclose(found.log_probs, exact, atol=1e-4)


def test_nan_beside_the_way_to_the_target_is_refused() -> None:
    """The subtree of token 2 is NaN, the target is below token 1: its rank would be right and the other titles gone."""
    decoder, params = tiny(tie_embeddings=False)
    embedding = params["embed"].at[2].set(jnp.nan)  # of the token as a node, not as an edge
    titles = [(1, 3), (1, 4), (2, 3), (2, 4)]
    cache = encoded(decoder, params, *prompts(1, LENGTHS, 12))
    broken = {**params, "embed": embedding}
    asked, index = np.zeros((3, 1), np.int64), build_index(build_trie(*ragged(titles)))
    assert np.isfinite(search(decoder, params, index, cache, asked, np.full(3, 4)).log_probs).all()
    with pytest.raises(UserError, match="the logit nan; its parameters must give finite scores"):
        search(decoder, broken, index, cache, asked, np.full(3, 4))
