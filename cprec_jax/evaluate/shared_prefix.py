"""Log-likelihoods of C candidates a user that attend to a prompt encoded once (rules `sum` and `mean`).

B users, C candidates, t tokens a candidate (padded), V vocabulary; H, K, G, h as in `prompt_cache`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cprec_jax.evaluate.prompt_cache import PromptCache, encode_prompts, prompt_scores, two_part_softmax
from cprec_jax.model.decoder import Decoder, head_weight

HEAD_CHUNK = 512


def _candidate_attend(q_BNHh: jax.Array, k_BNKh: jax.Array, v_BNKh: jax.Array, past: Any, context: Any) -> jax.Array:
    """Tokens see their user's prompt and the earlier tokens of their own candidate; N = C * t. `context` ends with an array [C, t, 0]."""
    keys_BPKh, values_BPKh = past
    visible_BP, shape = context
    B, N, H, h = q_BNHh.shape
    C, t = shape.shape[:2]
    K = k_BNKh.shape[2]
    q_BNKGh = (q_BNHh * h**-0.5).reshape(B, N, K, H // K, h)
    on_prompt = prompt_scores(q_BNKGh, keys_BPKh, visible_BP)
    own = (B, C, t, K)
    q, k, v = q_BNKGh.reshape(*own, H // K, h), k_BNKh.reshape(*own, h), v_BNKh.reshape(*own, h)
    on_self = jnp.einsum("BCtKGh,BCsKh->BKGCts", q, k, preferred_element_type=jnp.float32)
    on_self = jnp.where(jnp.tril(jnp.ones((t, t), bool)), on_self, jnp.finfo(jnp.float32).min)
    p_prompt, p_self = two_part_softmax(on_prompt, on_self.reshape(*on_self.shape[:3], N, t))
    o = jnp.einsum("BKGNP,BPKh->BNKGh", p_prompt.astype(v.dtype), values_BPKh)
    p_self = p_self.reshape(on_self.shape).astype(v.dtype)
    o = o + jnp.einsum("BKGCts,BCsKh->BCtKGh", p_self, v).reshape(o.shape)
    return o.reshape(B, N, H, h)


def candidate_log_likelihoods(
    decoder: Decoder, params: Any, tokens_BP: jax.Array, length_B: jax.Array, candidates_BCt: jax.Array, lengths_BC: jax.Array
) -> jax.Array:
    """sum log p(token | prompt, tokens before it) of every candidate, float32 [B, C]; divide by `lengths_BC` for the rule `mean`.

    Args:
      tokens_BP, length_B: prompts int32, padded on the right.
      candidates_BCt, lengths_BC: candidate tokens int32 (end of item included), padded on the right, and their numbers.
    """
    return score_after(decoder, params, encode_prompts(decoder, params, tokens_BP, length_B), candidates_BCt, lengths_BC)


def score_after(decoder: Decoder, params: Any, cache: PromptCache, candidates_BCt: jax.Array, lengths_BC: jax.Array) -> jax.Array:
    """`candidate_log_likelihoods` for prompts that are encoded already, so that a catalogue can go in chunks."""
    B, C, t = candidates_BCt.shape
    w_VD = head_weight(params, decoder.config).astype(cache.last_BD.dtype)
    first_BV = jax.nn.log_softmax(jnp.einsum("BD,VD->BV", cache.last_BD, w_VD, preferred_element_type=jnp.float32), axis=-1)
    total_BC = jnp.take_along_axis(first_BV, candidates_BCt[:, :, 0], axis=1)
    if t == 1:
        return total_BC
    steps = t - 1  # a candidate's last token predicts nothing
    positions_BN = jnp.broadcast_to(cache.length_B[:, None, None] + jnp.arange(steps), (B, C, steps)).reshape(B, C * steps)
    tokens_BN = candidates_BCt[:, :, :-1].reshape(B, C * steps)
    context = (cache.visible_BP, jnp.zeros((C, steps, 0)))
    scorer = decoder.clone(attend=_candidate_attend)
    x_BND: Any = scorer.apply({"params": params}, tokens_BN, positions_BN.astype(jnp.int32), context, (cache.keys, cache.values))
    picked_BN = _label_log_probs(x_BND.reshape(B * C * steps, -1), w_VD, candidates_BCt[:, :, 1:].reshape(-1)).reshape(B, C, steps)
    counted = jnp.arange(1, t) < lengths_BC[:, :, None]
    return total_BC + jnp.sum(jnp.where(counted, picked_BN, 0.0), axis=-1)


def _label_log_probs(x_ND: jax.Array, w_VD: jax.Array, labels_N: jax.Array) -> jax.Array:
    """log softmax(x @ w.T)[label], float32 [N], a chunk of rows at a time, so that N x V logits never exist."""
    n = x_ND.shape[0]
    chunk = min(HEAD_CHUNK, n)
    pad = -n % chunk
    x = jnp.pad(x_ND, ((0, pad), (0, 0))).reshape(-1, chunk, x_ND.shape[1])
    labels = jnp.pad(labels_N, (0, pad)).reshape(-1, chunk)

    def one(piece: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_cD, labels_c = piece
        logits_cV = jnp.einsum("cD,VD->cV", x_cD, w_VD, preferred_element_type=jnp.float32)
        return jnp.take_along_axis(logits_cV, labels_c[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits_cV, axis=1)

    return jax.lax.map(one, (x, labels)).reshape(-1)[:n]
