"""Does a language model know the test by heart? Whether it continues titles and test users' sequences verbatim.

*Titles*: from the first half of a title's tokens, the rest. *Sequences*: after a user's prompt, the target's title, out
of everything that could be written. The control is another user's target after the same prompt. A model that was
trained on the catalogue will know titles; a base model that does has met the data set, and one that continues sequences
has met the test.

Greedy decoding gives a text exactly when each of its tokens is the likeliest after those before it, so one forward pass
tells.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.inference.padding import fill_batch, pad
from cprec_jax.inference.prompts import make_prompts
from cprec_jax.model.decoder import Decoder, head_weight
from cprec_jax.train.open import LoadedModel

ROWS = 8  # per batch
SHORTEST = 4  # tokens of a title: a shorter one has no half to go on with


def leak_probe(model: LoadedModel, data: EvalSet, prompt_tokens: int, n: int, seed: int) -> dict[str, Any]:
    """Of `n` titles and `n` users of a set (a seeded choice): how many there were, and the share that comes out
    verbatim (None where there were none).

    `titles_tokens`: share of single tokens that are the likeliest, which rises before whole titles do. The end of item
    is not part of what should follow: only a model that was trained with our template could know it.
    """
    titles = _title_continuations(model, data, n, seed)
    sequences, others = _sequence_continuations(model, data, prompt_tokens, n, seed)
    of_titles, of_sequences, of_others = (_hits(model, continuations) for continuations in (titles, sequences, others))
    return {
        "titles": len(of_titles),
        "titles_verbatim": _verbatim(of_titles),
        "titles_tokens": float(np.concatenate(of_titles).mean()) if of_titles else None,
        "sequences": len(of_sequences),
        "sequences_verbatim": _verbatim(of_sequences),
        "sequences_verbatim_control": _verbatim(of_others),
    }


Continuation = tuple[np.ndarray, np.ndarray]  # what is given, and what should follow: int32 tokens


def _title_continuations(model: LoadedModel, data: EvalSet, n: int, seed: int) -> list[Continuation]:
    bos = [] if model.tokenizer is None or model.tokenizer.bos_id is None else [model.tokenizer.bos_id]
    continuations: list[Continuation] = []
    for item in data.items[np.random.default_rng(seed).permutation(len(data.items))]:
        title = model.catalogue.item(int(item))[:-1]
        if len(title) >= SHORTEST:
            half = -(-len(title) // 2)
            continuations.append((np.concatenate([np.array(bos, np.int32), title[:half]]), title[half:]))
        if len(continuations) == n:
            break
    return continuations


def _sequence_continuations(
    model: LoadedModel, data: EvalSet, prompt_tokens: int, n: int, seed: int
) -> tuple[list[Continuation], list[Continuation]]:
    """After each user's prompt the user's own target, and that of the next user. Users who share a target with the next
    one are left out of both."""
    users = np.random.default_rng(seed).permutation(len(data))[:n]
    prompts = make_prompts(data.targets, data.name, model.catalogue, model.template, prompt_tokens).tokens
    titles = [model.catalogue.item(int(item))[:-1] for item in data.targets.target]
    pairs = [
        (user, another)
        for user, another in zip(users, np.roll(users, 1), strict=True)
        if not np.array_equal(titles[user], titles[another])
    ]
    return [(prompts[user], titles[user]) for user, _ in pairs], [
        (prompts[user], titles[another]) for user, another in pairs
    ]


def _verbatim(hits: Sequence[np.ndarray]) -> float | None:
    return float(np.mean([hit.all() for hit in hits])) if hits else None


def _hits(model: LoadedModel, continuations: Sequence[Continuation]) -> list[np.ndarray]:
    """Of each text, which of its tokens are the likeliest one after all before them."""
    # the default attend function, so compiled once
    decoder = Decoder(config=model.decoder.config, dtype=model.decoder.dtype)
    hits: list[np.ndarray] = [np.zeros(0, bool)] * len(continuations)
    order = np.argsort([len(given) + len(rest) for given, rest in continuations], kind="stable")
    for first in range(0, len(order), ROWS):
        rows = fill_batch(order[first : first + ROWS], ROWS)
        tokens_BT, _ = pad([np.concatenate(continuations[row]) for row in rows])
        most = -(-max(len(continuations[row][1]) for row in rows) // 8) * 8
        position_BK = np.zeros((ROWS, most), np.int32)
        for position_K, (given, rest) in zip(position_BK, (continuations[row] for row in rows), strict=True):
            position_K[: len(rest)] = len(given) - 1 + np.arange(len(rest))
        likeliest_BK = np.asarray(_likeliest(decoder, model.params, tokens_BT, position_BK))
        for row, likeliest_K in zip(rows, likeliest_BK, strict=True):
            rest = continuations[row][1]
            hits[row] = likeliest_K[: len(rest)] == rest
    return hits


def _likeliest_tokens(decoder: Decoder, params: Any, tokens_BT: jax.Array, position_BK: jax.Array) -> jax.Array:
    """The likeliest next token, int32[B, K], after the token at each position. Padding behind a text changes nothing
    before it."""
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    x_BTD: Any = decoder.apply({"params": params}, tokens_BT, positions_BT, (jnp.ones_like(tokens_BT),))
    x_BKD = jnp.take_along_axis(x_BTD, position_BK[..., None], axis=1)
    w_VD = head_weight(params, decoder.config).astype(x_BKD.dtype)
    logits = lambda x_KD: jnp.einsum("KD,VD->KV", x_KD, w_VD, preferred_element_type=jnp.float32)  # noqa: E731
    return jax.lax.map(lambda x_KD: jnp.argmax(logits(x_KD), axis=-1), x_BKD)  # a row at a time: never B x K x V


_likeliest = jax.jit(_likeliest_tokens, static_argnums=0)
