"""Rows of the embedding (and of a head of its own) for tokens that a base model does not know.

New tokens first take the spare rows that many checkpoints have after their tokenizer's last id; where these do not suffice the table grows
to a multiple of 128. A new row starts as the mean of the rows of real tokens: a row drawn at random can get a far larger logit than every
real token, and then the first steps of training undo what the model knew (Hewitt, "Initializing new word embeddings for pretrained
language models", 2021).
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cprec_jax.errors import UserError
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, Params, abstract_params
from cprec_jax.parallel import rules

MULTIPLE = 128


def with_room(config: DecoderConfig, base_size: int, size: int, where: str) -> DecoderConfig:
    """The config with rows for `size` tokens, of which `base_size` are no new ones.

    A table that is too small for its own tokenizer is a `UserError`: they do not belong together.
    """
    if base_size > config.vocab_size:
        raise UserError(
            f"config.text.tokenizer has {base_size} tokens, but the embedding of {where} has {config.vocab_size} rows; "
            "use the tokenizer of that model"
        )
    if size <= config.vocab_size:
        return config
    return dataclasses.replace(config, vocab_size=-(-size // MULTIPLE) * MULTIPLE)


def load_with_room(directory: Path, config: DecoderConfig, base_size: int, size: int, shardings: Any = None) -> Params:
    """`load_params` for a `config` that `with_room` made; the rows of new tokens are the mean of the first `base_size` rows."""
    stored = read_config(directory)
    if size == base_size:
        return load_params(directory, stored, shardings)
    before = shardings
    if shardings is not None:
        before = rules.param_shardings(shardings["embed"].mesh, *abstract_params(Decoder(stored)))
    params = dict(load_params(directory, stored, before))
    for name in ("embed", "lm_head"):
        if name in params:
            params[name] = _extended(config.vocab_size, base_size, size, None if shardings is None else shardings[name])(params[name])
    return params


def _extended(rows: int, base_size: int, size: int, sharding: Any) -> Any:
    def extend(table_VD: jax.Array) -> jax.Array:
        mean_D = table_VD[:base_size].mean(axis=0)
        index_V1 = jnp.arange(rows)[:, None]
        new_V1 = ((index_V1 >= base_size) & (index_V1 < size)) | (index_V1 >= table_VD.shape[0])
        return jnp.where(new_V1, mean_D, jnp.pad(table_VD, ((0, rows - table_VD.shape[0]), (0, 0))))

    return functools.partial(jax.jit, out_shardings=sharding)(extend)
