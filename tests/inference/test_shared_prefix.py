"""Candidates that attend to a prompt encoded once, against one sequence a candidate."""

import functools

import jax
import numpy as np
import pytest

from cprec_jax.inference import shared_prefix
from cprec_jax.inference.shared_prefix import candidate_log_likelihoods
from tests.inference.titles import END, by_brute_force, prompts, random_titles
from tests.model.tiny import tiny

scored = functools.partial(jax.jit, static_argnums=0)(candidate_log_likelihoods)
LENGTHS = (9, 4, 12)


def padded(titles: list[tuple[int, ...]], width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32[C, width] with the end of the item, padded with a real token, and lengths int32[C]."""
    tokens = np.full((len(titles), width), 7, np.int32)
    for row, title in zip(tokens, titles, strict=True):
        row[: len(title) + 1] = [*title, END]
    return tokens, np.array([len(t) + 1 for t in titles], np.int32)


def for_users(seed: int = 3) -> tuple[list[list[tuple[int, ...]]], np.ndarray, np.ndarray]:
    """Other candidates for each of three users."""
    each = [random_titles(seed + user, 11) for user in range(3)]
    tokens, lengths = zip(*map(padded, each), strict=True)
    return each, np.stack(tokens), np.stack(lengths)


@pytest.mark.parametrize(
    "changes", [{}, {"sliding_window": 5}, {"attention_softcap": 2.0, "num_kv_heads": 1, "tie_embeddings": False}]
)
def test_equal_to_one_sequence_a_candidate(changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prefix, "HEAD_CHUNK", 50)  # several chunks, the last one padded
    decoder, params = tiny(**changes)
    each, tokens, lengths = for_users()
    batch = prompts(1, LENGTHS, 12)
    found = np.asarray(scored(decoder, params, *batch, tokens, lengths))
    for row, prompt, length, titles in zip(found, *batch, each, strict=True):
        np.testing.assert_allclose(row, by_brute_force(decoder, params, prompt[:length], titles)[1], atol=1e-4, rtol=0)


def test_permuting_candidates_and_users_changes_nothing() -> None:
    decoder, params = tiny()
    _, tokens, lengths = for_users()
    batch = prompts(1, LENGTHS, 12)
    found = np.asarray(scored(decoder, params, *batch, tokens, lengths))
    order = np.random.default_rng(0).permutation(tokens.shape[1])
    np.testing.assert_allclose(
        np.asarray(scored(decoder, params, *batch, tokens[:, order], lengths[:, order])), found[:, order], atol=1e-5
    )
    flipped = [x[::-1] for x in (*batch, tokens, lengths)]
    np.testing.assert_allclose(np.asarray(scored(decoder, params, *flipped))[::-1], found, atol=1e-5)


def test_padding_changes_nothing() -> None:
    decoder, params = tiny()
    _, tokens, lengths = for_users()
    prompt, prompt_lengths = prompts(1, LENGTHS, 12)
    found = np.asarray(scored(decoder, params, prompt, prompt_lengths, tokens, lengths))
    wide = np.concatenate([tokens, np.full((*tokens.shape[:2], 5), 9, np.int32)], axis=2)
    long = np.concatenate([prompt, np.full((3, 6), 11, np.int32)], axis=1)
    np.testing.assert_allclose(
        np.asarray(scored(decoder, params, long, prompt_lengths, wide, lengths)), found, atol=1e-5
    )


def test_titles_of_one_token_need_the_prompt_only() -> None:
    decoder, params = tiny()
    tokens = np.arange(60, dtype=np.int32).reshape(3, 20, 1)
    batch = prompts(1, LENGTHS, 12)
    found = np.asarray(scored(decoder, params, *batch, tokens, np.ones((3, 20), np.int32)))
    x = jax.jit(lambda t, n: shared_prefix.encode_prompts(decoder, params, t, n).last_BD)(*batch)
    expected = jax.nn.log_softmax(np.asarray(x) @ np.asarray(params["embed"]).T, axis=-1)
    np.testing.assert_allclose(found, np.take_along_axis(np.asarray(expected), tokens[:, :, 0], axis=1), atol=1e-4)
