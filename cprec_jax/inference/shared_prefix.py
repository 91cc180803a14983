"""Log-likelihoods of C candidates per user that attend to a prompt encoded once (rules `sum` and `mean`).

B users, C candidates, t tokens per candidate (padded), V vocabulary; H, K, G, h as in `prompt_cache`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cprec_jax.inference.prompt_cache import PromptCache, attend_prompt, encode_prompts
from cprec_jax.model.attention import KeysValues
from cprec_jax.model.decoder import Decoder, head_weight
from cprec_jax.model.partial_attention import attend_keys, by_head, by_position, join_rows, merge

HEAD_CHUNK = 512


def _candidate_attend(
    q_BNHh: jax.Array,
    k_BNKh: jax.Array,
    v_BNKh: jax.Array,
    past: KeysValues,
    context: tuple[jax.Array, jax.Array, jax.Array],
    window: int | jax.Array | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Tokens see their user's prompt and the earlier tokens of their own candidate, in one softmax; N = C * t."""
    keys_BPKh, values_BPKh = past
    length_B, position_BN, shape_Ct = context
    B = len(q_BNHh)
    C, t = shape_Ct.shape
    K = k_BNKh.shape[2]
    q_BKGNh = by_head(q_BNHh, K)
    on_prompt = attend_prompt(
        q_BKGNh, keys_BPKh, values_BPKh, length_B, position_BN - length_B[:, None], window, softcap
    )
    apart = jnp.arange(t)[:, None] - jnp.arange(t)
    visible_tt = apart >= 0
    if window is not None:
        visible_tt &= apart < window
    # each candidate is a row of its own
    q, k, v = (x.reshape(B * C, t, *x.shape[2:]) for x in (q_BNHh, k_BNKh, v_BNKh))
    on_self = join_rows(attend_keys(by_head(q, K), k, v, visible_tt[None], softcap), B)
    return by_position(merge(on_prompt, on_self)).astype(v_BNKh.dtype)


def candidate_log_likelihoods(
    decoder: Decoder,
    params: Any,
    tokens_BP: jax.Array,
    length_B: jax.Array,
    candidates_BCt: jax.Array,
    lengths_BC: jax.Array,
) -> jax.Array:
    """sum log p(token | prompt, tokens before it) of every candidate, float32 [B, C]; divide by `lengths_BC` for the
    rule `mean`.

    Args:
      tokens_BP, length_B: prompts int32, padded on the right.
      candidates_BCt, lengths_BC: candidate tokens int32 (end of item included), padded on the right, and their numbers.
    """
    return score_after(
        decoder, params, encode_prompts(decoder, params, tokens_BP, length_B), candidates_BCt, lengths_BC
    )


def score_after(
    decoder: Decoder, params: Any, cache: PromptCache, candidates_BCt: jax.Array, lengths_BC: jax.Array
) -> jax.Array:
    """`candidate_log_likelihoods` for prompts that are encoded already, so that a catalogue can go in chunks."""
    B, C, t = candidates_BCt.shape
    w_VD = head_weight(params, decoder.config).astype(cache.last_BD.dtype)
    first_BV = jax.nn.log_softmax(
        jnp.einsum("BD,VD->BV", cache.last_BD, w_VD, preferred_element_type=jnp.float32), axis=-1
    )
    total_BC = jnp.take_along_axis(first_BV, candidates_BCt[:, :, 0], axis=1)
    if t == 1:
        return total_BC
    steps = t - 1  # a candidate's last token predicts nothing
    x_BND = hidden_after(decoder, params, cache, candidates_BCt)
    picked_BN = label_log_probs(x_BND.reshape(B * C * steps, -1), w_VD, candidates_BCt[:, :, 1:].reshape(-1)).reshape(
        B, C, steps
    )
    counted = jnp.arange(1, t) < lengths_BC[:, :, None]
    return total_BC + jnp.sum(jnp.where(counted, picked_BN, 0.0), axis=-1)


def hidden_after(decoder: Decoder, params: Any, cache: PromptCache, candidates_BCt: jax.Array) -> jax.Array:
    """Final hidden states [B, C * (t - 1), D] of all candidate tokens but the last, after prompts encoded from their
    start."""
    B, C, t = candidates_BCt.shape
    steps = t - 1
    positions_BN = jnp.broadcast_to(cache.length_B[:, None, None] + jnp.arange(steps), (B, C, steps)).reshape(
        B, C * steps
    )
    context = (cache.length_B, positions_BN, jnp.zeros((C, steps)))  # the last for its shape
    scorer = decoder.clone(attend=_candidate_attend)
    tokens_BN = candidates_BCt[:, :, :-1].reshape(B, C * steps)
    x_BND: Any = scorer.apply({"params": params}, tokens_BN, positions_BN, context, (cache.keys, cache.values))
    return x_BND


def label_log_probs(x_ND: jax.Array, w_VD: jax.Array, labels_N: jax.Array) -> jax.Array:
    """log softmax(x @ w.T)[label], float32 [N], a chunk of rows at a time, so that N x V logits never exist."""
    n = x_ND.shape[0]
    rows = min(HEAD_CHUNK, n)
    padding = -n % rows
    x = jnp.pad(x_ND, ((0, padding), (0, 0))).reshape(-1, rows, x_ND.shape[1])
    labels = jnp.pad(labels_N, (0, padding)).reshape(-1, rows)

    def of_chunk(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_cD, labels_c = chunk
        logits_cV = jnp.einsum("cD,VD->cV", x_cD, w_VD, preferred_element_type=jnp.float32)
        return jnp.take_along_axis(logits_cV, labels_c[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits_cV, axis=1)

    return jax.lax.map(of_chunk, (x, labels)).reshape(-1)[:n]
