"""A few titles' exact probabilities from their own ways through the trie."""

import jax
import numpy as np
import pytest

from cprec_jax.inference.prompt_cache import encode_prompts
from cprec_jax.inference.trie.paths import path_logits, plan_paths
from cprec_jax.inference.trie.trie import build_trie
from tests.inference.titles import END, by_brute_force, prompts, ragged, random_titles
from tests.model.tiny import tiny

LENGTHS = (9, 4, 12)


def tokens_of(titles: list[tuple[int, ...]], columns: np.ndarray) -> np.ndarray:
    found = np.full((*columns.shape, 8), 5, np.int32)
    for place in np.ndindex(columns.shape):
        title = (*titles[columns[place]], END)
        found[place][: len(title)] = title
    return found


@pytest.mark.parametrize("count", [1, 7])
def test_equal_to_brute_force_at_any_temperature(count: int) -> None:
    titles = random_titles(0, 120)
    trie = build_trie(*ragged(titles))
    decoder, params = tiny()
    batch = prompts(1, LENGTHS, 12)
    columns = np.random.default_rng(2).integers(0, len(titles), (3, count))
    titles_BCt = tokens_of(titles, columns)
    plan = plan_paths(trie, columns, titles_BCt.shape[2] - 1)

    @jax.jit
    def logits(tokens, lengths, titles, at, token):
        return path_logits(decoder, params, encode_prompts(decoder, params, tokens, lengths), titles, at, token)

    found = np.asarray(logits(*batch, titles_BCt, plan.state, plan.token))
    for temperature in (1.0, 2.5):
        scores = plan.log_probs(found, temperature)
        for row, prompt, length, chosen in zip(scores, *batch, columns, strict=True):
            expected, _ = by_brute_force(decoder, params, prompt[:length], titles, temperature=temperature)
            np.testing.assert_allclose(row, expected[chosen], atol=1e-4, rtol=0)


def test_a_catalogue_of_one_title_needs_no_edge() -> None:
    plan = plan_paths(build_trie(*ragged([(1, 2)] * 2)), np.array([[0], [1]]), 2)
    np.testing.assert_allclose(plan.log_probs(np.zeros(plan.state.shape), 1.0), -np.log([[2.0], [2.0]]))
