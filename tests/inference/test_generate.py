"""The cache changes nothing: logits and greedy text are those of full forward passes, for every kind of layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.inference.generate import generate
from cprec_jax.inference.next_token import next_hidden, nothing_generated
from cprec_jax.inference.padding import pad
from cprec_jax.inference.prompt_cache import encode_prompts
from cprec_jax.model.decoder import logits
from tests.model.tiny import hidden, one_segment, tiny

encode = jax.jit(encode_prompts, static_argnums=0)
step = jax.jit(next_hidden, static_argnums=0)

KINDS = {
    "window, one kv head": {"sliding_window": 5, "num_kv_heads": 1},
    "gemma-like": {
        "sliding_window": 5,
        "sliding_layers": (True, False, True),
        "local_rope_theta": 100.0,
        "qk_norm": "head",
        "norm_placement": "both",
        "norm_plus_one": True,
        "scale_embeddings": True,
        "attention_softcap": 2.0,
        "query_scalar": 12.0,
        "activation": "gelu_tanh",
    },
    "biased, full q/k norm": {
        "attention_bias": True,
        "attention_out_bias": True,
        "qk_norm": "full",
        "norm_placement": "post",
    },
}
PROMPTS = [np.array(tokens, np.int32) for tokens in ([5, 17, 60, 33], [9], list(range(1, 14)), [3, 3, 41])]


ROOM = 24


def full_logits(decoder, params, rows):
    """float32[rows, ROOM, V] of whole forward passes without a cache; what stands behind a row's tokens does not
    matter."""
    tokens = np.zeros((len(rows), ROOM), np.int32)
    for row, found in zip(tokens, rows, strict=True):
        row[: len(found)] = found
    return np.asarray(logits(params, decoder.config, hidden(decoder, params, one_segment(tokens))))


@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_and_greedy_text_are_those_of_full_passes(kind):
    decoder, params = tiny(**KINDS[kind])
    found = generate(decoder, params, PROMPTS, new_tokens=9)
    rows = [np.concatenate([prompt, tokens]) for prompt, tokens in zip(PROMPTS, found, strict=True)]
    whole = full_logits(decoder, params, rows)

    tokens_BP, length_B = pad(PROMPTS)
    cache = encode(decoder, params, tokens_BP, length_B)
    past = nothing_generated(cache, 9)
    states = [cache.last_BD]
    for token_B in np.stack(found, axis=1):
        x_BD, past = step(decoder, params, cache, past, token_B)
        states.append(x_BD)
    cached = np.asarray(logits(params, decoder.config, jnp.stack(states, axis=1)))
    for row, prompt in enumerate(PROMPTS):
        here = slice(len(prompt) - 1, len(prompt) + 9)
        np.testing.assert_allclose(cached[row], whole[row, here], atol=2e-5)
        np.testing.assert_array_equal(found[row], whole[row, here].argmax(axis=-1)[:9])


def test_a_row_stops_at_an_end_token_and_the_others_go_on():
    decoder, params = tiny()
    free = generate(decoder, params, PROMPTS, new_tokens=9, end_ids=(-2, -2))
    end = int(free[0][3])
    stopped = generate(decoder, params, PROMPTS, new_tokens=9, end_ids=(end, 10**6))
    for whole, cut in zip(free, stopped, strict=True):
        at = np.flatnonzero(whole == end)
        np.testing.assert_array_equal(cut, whole[: at[0] + 1] if len(at) else whole)
    assert len(stopped[0]) < 9


def test_draws_depend_on_seed_and_row_and_not_on_the_batch():
    decoder, params = tiny()
    draw = lambda **options: generate(decoder, params, PROMPTS, new_tokens=9, temperature=1.5, **options)  # noqa: E731
    together, alone, other = draw(batch=4), draw(batch=3), draw(batch=4, seed=1)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(together, other, strict=True))
    same = generate(decoder, params, [PROMPTS[0]] * 4, new_tokens=9, temperature=1.5, batch=4)
    assert not np.array_equal(*same[:2]), "two rows with the same prompt draw different texts"


def test_draws_follow_the_distribution():
    decoder, params = tiny(num_layers=1)
    prompt = PROMPTS[0]
    drawn = np.concatenate(generate(decoder, params, [prompt] * 2000, new_tokens=1, temperature=2.0, batch=2000))
    share = np.bincount(drawn, minlength=64) / 2000
    scaled = np.asarray(full_logits(decoder, params, [prompt])[0, len(prompt) - 1], np.float64) / 2.0
    want = np.exp(scaled - np.logaddexp.reduce(scaled))
    assert np.abs(share - want).max() < 4 * np.sqrt(want.max() / 2000)
