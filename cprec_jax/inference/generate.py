"""Text token by token, for a batch of prompts, in one compiled loop. B rows, P prompt length, N new tokens at most."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.inference.next_token import next_hidden, nothing_generated
from cprec_jax.inference.padding import fill_batch, pad
from cprec_jax.inference.prompt_cache import encode_prompts
from cprec_jax.model.decoder import Decoder, logits


@flax.struct.dataclass
class Draws:
    """How tokens are chosen. row_B int32[B]: the number of each row among all prompts; the random numbers of a row
    depend on it, the seed (uint32) and the position alone, so that the batch a prompt is in changes nothing. greedy:
    the most likely token is taken; otherwise one is drawn from the distribution at `temperature` (float32)."""

    row_B: Any
    seed: Any
    temperature: Any
    greedy: bool = flax.struct.field(pytree_node=False)


@functools.partial(jax.jit, static_argnums=(0,), static_argnames=("new_tokens",))
def generate_batch(
    decoder: Decoder,
    params: Any,
    tokens_BP: jax.Array,
    length_B: jax.Array,
    end_ids_E: jax.Array,
    draws: Draws,
    *,
    new_tokens: int,
) -> jax.Array:
    """int32 [B, N]: what follows each prompt; after a token of `end_ids_E` (which may be empty) a row goes on with -1.

    Args:
      tokens_BP, length_B: prompts int32, padded on the right.
      draws: how a token is chosen from the distribution.
    """
    cache = encode_prompts(decoder, params, tokens_BP, length_B)
    key_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(draws.seed), draws.row_B)

    def choose(x_BD: jax.Array, step: jax.Array) -> jax.Array:
        logits_BV = logits(params, decoder.config, x_BD[:, None])[:, 0]
        if draws.greedy:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        step_key_B = jax.vmap(jax.random.fold_in, (0, None))(key_B, step)
        return jax.vmap(jax.random.categorical)(step_key_B, logits_BV / draws.temperature).astype(jnp.int32)

    def add(
        written_BN: jax.Array, done_B: jax.Array, token_B: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        written_BN = written_BN.at[:, step].set(jnp.where(done_B, -1, token_B))
        return written_BN, done_B | jnp.any(token_B[:, None] == end_ids_E, axis=1)

    def more(carry: Any) -> jax.Array:
        _, done_B, _, _, step = carry
        return (step < new_tokens) & ~jnp.all(done_B)

    def body(carry: Any) -> Any:
        written_BN, done_B, token_B, past, step = carry
        x_BD, past = next_hidden(decoder, params, cache, past, token_B)
        token_B = choose(x_BD, step)
        written_BN, done_B = add(written_BN, done_B, token_B, step)
        return written_BN, done_B, token_B, past, step + 1

    B = tokens_BP.shape[0]
    first_B = choose(cache.last_BD, jnp.int32(0))
    empty_BN = jnp.full((B, new_tokens), -1, jnp.int32)
    written_BN, done_B = add(empty_BN, jnp.zeros(B, bool), first_B, jnp.int32(0))
    past = nothing_generated(cache, new_tokens)
    return jax.lax.while_loop(more, body, (written_BN, done_B, first_B, past, jnp.int32(1)))[0]


def generate(
    decoder: Decoder,
    params: Any,
    prompts: Sequence[np.ndarray],
    *,
    new_tokens: int,
    end_ids: Sequence[int] = (),
    temperature: float = 0.0,
    seed: int = 0,
    batch: int = 8,
) -> list[np.ndarray]:
    """What the model writes after each of `prompts` (int32[p], not empty): int32 arrays of at most `new_tokens`, the
    end token included.

    temperature 0 is greedy. `batch` prompts go together, those of like length; it changes no result.
    """
    assert all(len(prompt) for prompt in prompts)
    texts: list[np.ndarray] = [np.zeros(0, np.int32)] * len(prompts)
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    batch = min(batch, len(prompts))
    for first in range(0, len(order), batch):
        rows = fill_batch(order[first : first + batch], batch)
        tokens_BP, length_B = pad([prompts[row] for row in rows])
        result = generate_batch(
            decoder,
            params,
            tokens_BP,
            length_B,
            np.asarray(end_ids, np.int32),
            Draws(
                row_B=rows.astype(np.int32),
                seed=np.uint32(seed),
                temperature=np.float32(temperature or 1.0),
                greedy=temperature == 0,
            ),
            new_tokens=new_tokens,
        )
        for row, tokens in zip(rows, np.asarray(result), strict=True):
            texts[row] = tokens[tokens >= 0]
    return texts
