"""Scores of a whole catalogue against brute force, and what must not change them."""

import functools

import jax
import numpy as np
import pytest

from cprec_jax.inference import prompt_cache
from cprec_jax.inference.trie.exact import to_device, trie_log_probs
from cprec_jax.inference.trie.trie import build_trie
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.parallel.rules import batch_sharding, replicated
from tests.inference.titles import by_brute_force, prompts, ragged, random_titles, token_log_probs
from tests.model.tiny import tiny

scored = functools.partial(jax.jit, static_argnums=0)(trie_log_probs)
LENGTHS = (9, 4, 12)


def log_probs(titles: list[tuple[int, ...]], chunk: int = 4096, seed: int = 1, temperature: float = 1.0) -> np.ndarray:
    decoder, params = tiny()
    trie = to_device(build_trie(*ragged(titles)), chunk)
    return np.asarray(scored(decoder, params, trie, *prompts(seed, LENGTHS, 12), temperature))


def brute(titles: list[tuple[int, ...]], seed: int = 1, **changes) -> np.ndarray:
    decoder, params = tiny(**changes)
    tokens, lengths = prompts(seed, LENGTHS, 12)
    return np.stack(
        [by_brute_force(decoder, params, row[:length], titles)[0] for row, length in zip(tokens, lengths, strict=True)]
    )


@pytest.mark.parametrize("chunk", [4096, 20])
def test_equal_to_brute_force_and_sums_to_one(chunk: int) -> None:
    titles = random_titles(0, 120)
    found = log_probs(titles, chunk)
    np.testing.assert_allclose(found, brute(titles), atol=1e-4, rtol=0)
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 5},
        {"sliding_window": 6, "sliding_layers": (True, False, True), "local_rope_theta": 500.0},
        {
            "attention_softcap": 2.0,
            "attention_bias": True,
            "qk_norm": "head",
            "num_kv_heads": 1,
            "tie_embeddings": False,
        },
    ],
)
def test_other_families_are_exact_too(changes: dict) -> None:
    titles = random_titles(0, 120)
    decoder, params = tiny(**changes)
    trie = to_device(build_trie(*ragged(titles)), 20)
    found = np.asarray(scored(decoder, params, trie, *prompts(1, LENGTHS, 12)))
    np.testing.assert_allclose(found, brute(titles, **changes), atol=1e-4, rtol=0)


def test_pieces_of_attention_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = random_titles(0, 120)
    whole = log_probs(titles)
    monkeypatch.setattr(prompt_cache, "_PAIRS", {"cpu": 16 * 3 * 12 * 4})  # 16 nodes at a time
    decoder, params = tiny()
    anew = jax.jit(lambda *inputs: trie_log_probs(decoder, *inputs))  # what is compiled already has other pieces
    pieces = np.asarray(anew(params, to_device(build_trie(*ragged(titles))), *prompts(1, LENGTHS, 12)))
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


def test_permuting_titles_permutes_scores() -> None:
    titles = random_titles(0, 120)
    order = np.random.default_rng(0).permutation(len(titles))
    np.testing.assert_allclose(log_probs([titles[i] for i in order]), log_probs(titles)[:, order], atol=1e-6)


def test_users_and_padding_do_not_touch_each_other() -> None:
    titles = random_titles(0, 120)
    decoder, params = tiny()
    trie = to_device(build_trie(*ragged(titles)))
    tokens, lengths = prompts(1, LENGTHS, 12)
    together = np.asarray(scored(decoder, params, trie, tokens, lengths))
    swapped = np.asarray(scored(decoder, params, trie, tokens[::-1], lengths[::-1]))
    np.testing.assert_allclose(swapped[::-1], together, atol=1e-5)
    wider = np.concatenate([tokens, np.full((3, 9), 17, np.int32)], axis=1)
    other_padding = np.where(np.arange(21) < lengths[:, None], wider, 5).astype(np.int32)
    np.testing.assert_allclose(np.asarray(scored(decoder, params, trie, other_padding, lengths)), together, atol=1e-5)
    alone = [np.asarray(scored(decoder, params, trie, tokens[[i] * 3], lengths[[i] * 3]))[:1] for i in range(3)]
    np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-5)


def test_a_prefix_title_is_ordered_rightly() -> None:
    """Without the end of the item the shorter title would always win; here whichever the model finds likelier does."""
    titles = [(1, 2), (1, 2, 3), (4,)]
    orders = set()
    for seed in range(8):
        found, expected = log_probs(titles, seed=seed), brute(titles, seed=seed)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert np.array_equal(found[:, 0] > found[:, 1], expected[:, 0] > expected[:, 1])
        orders.update((found[:, 0] > found[:, 1]).tolist())
    assert orders == {True, False}


def test_titles_that_tokenise_alike_tie_and_share() -> None:
    titles = [(1, 2), (3,), (1, 2), (4, 4), (1, 2)]
    found = log_probs(titles)
    assert np.array_equal(found[:, 0], found[:, 2]) and np.array_equal(found[:, 0], found[:, 4])
    single = log_probs([(1, 2), (3,), (4, 4)])
    np.testing.assert_allclose(found[:, 0], single[:, 0] - np.log(3), atol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-5)


def test_a_catalogue_of_one_title_scores_zero() -> None:
    np.testing.assert_array_equal(log_probs([(1, 2, 3)]), np.zeros((3, 1)))


def test_one_branching_root_is_a_softmax_over_first_tokens() -> None:
    titles = [(t, t + 1) for t in range(0, 40, 2)]
    decoder, params = tiny()
    trie = build_trie(*ragged(titles))
    assert trie.nodes == 0
    found = log_probs(titles)
    tokens, lengths = prompts(1, LENGTHS, 12)
    for row, length, scores in zip(tokens, lengths, found, strict=True):
        first = token_log_probs(decoder, params, row[:length], [(0,)])[0][0][[t for t, _ in titles]]
        np.testing.assert_allclose(scores, first - np.logaddexp.reduce(first), atol=1e-5)


def test_temperature_flattens_each_step() -> None:
    titles = random_titles(0, 120)
    decoder, params = tiny()
    tokens, lengths = prompts(1, LENGTHS, 12)
    for temperature in (0.5, 3.0):
        found = log_probs(titles, temperature=temperature)
        expected, _ = by_brute_force(decoder, params, tokens[0, : lengths[0]], titles, temperature=temperature)
        np.testing.assert_allclose(found[0], expected, atol=2e-4)


@pytest.mark.slow
def test_sharded_over_eight_devices_equals_one() -> None:
    assert jax.device_count() == 8
    titles = random_titles(0, 120)
    decoder, params = tiny()
    trie = to_device(build_trie(*ragged(titles)), 20)
    batch = prompts(2, (5, 12, 7, 3, 9, 10, 4, 8) * 2, 12)
    alone = np.asarray(scored(decoder, params, trie, *batch))
    mesh = make_mesh()
    placed = jax.device_put(batch, batch_sharding(mesh, len(batch[0])))
    shared = scored(decoder, jax.device_put(params, replicated(mesh)), jax.device_put(trie, replicated(mesh)), *placed)
    assert len(shared.sharding.device_set) == 8
    np.testing.assert_allclose(np.asarray(shared), alone, atol=1e-5)


def test_bfloat16_stays_close() -> None:
    titles = random_titles(0, 120)
    decoder, params = tiny()
    half = decoder.clone(dtype=jax.numpy.bfloat16)
    trie = to_device(build_trie(*ragged(titles)))
    batch = prompts(1, LENGTHS, 12)
    found = np.asarray(scored(half, params, trie, *batch))
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    assert np.abs(found - np.asarray(scored(decoder, params, trie, *batch))).mean() < 0.2
