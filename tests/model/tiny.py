"""A decoder small enough for exact checks, and inputs for it. Everything is jitted: compiling op by op takes most of a
test's time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, abstract_params


def tiny_config(**changes: Any) -> DecoderConfig:
    values: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
    }
    return DecoderConfig(**{**values, **changes})


def tiny(seed: int = 0, **changes: Any) -> tuple[Decoder, Any]:
    """A decoder and random parameters, made by numpy: compiling `init_params` would take longer than most tests."""
    decoder = Decoder(tiny_config(**changes))
    rng = np.random.default_rng(seed)

    # far from an initial model: attention is not uniform, norm scales are near one and not equal, biases are not zero
    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(
            0.2 * rng.normal(size=leaf.shape) + (leaf.ndim < 3 and leaf.shape[0] != decoder.config.vocab_size),
            leaf.dtype,
        )

    return decoder, jax.tree.map(draw, abstract_params(decoder)[0])


@functools.partial(jax.jit, static_argnums=0, static_argnames=("return_kv",))
def hidden(decoder: Decoder, params: Any, inputs: Any, past: Any = None, *, return_kv: bool = False) -> Any:
    """The decoder's forward pass, compiled once for each decoder and shape."""
    return decoder.apply({"params": params}, *inputs, past, return_kv=return_kv)


def one_segment(tokens_BT: Any) -> tuple[jax.Array, jax.Array, tuple[jax.Array]]:
    """(tokens, positions, context) of rows that hold one document each."""
    tokens_BT = jnp.asarray(tokens_BT, jnp.int32)
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    return tokens_BT, positions_BT, (jnp.ones_like(tokens_BT),)


def packed(rows: list[list[np.ndarray]], length: int) -> tuple[jax.Array, jax.Array, tuple[jax.Array]]:
    """Rows of documents one after another; padding has segment 0."""
    tokens, positions, segments = (np.zeros((len(rows), length), np.int32) for _ in range(3))
    for row, documents in enumerate(rows):
        start = 0
        for number, document in enumerate(documents, start=1):
            part = slice(start, start + len(document))
            tokens[row, part], positions[row, part], segments[row, part] = document, np.arange(len(document)), number
            start += len(document)
    return jnp.asarray(tokens), jnp.asarray(positions), (jnp.asarray(segments),)
