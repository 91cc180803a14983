"""Rows of the embedding (and of a head of its own) for tokens that a base model does not know.

New tokens first take the spare rows that many checkpoints have after their tokenizer's last id; where these do not
suffice the table grows to a multiple of 128. A new row starts as the mean of the rows of real tokens: a row drawn at
random can get a far larger logit than every real token, and then the first steps of training undo what the model knew
(Hewitt, "Initializing new word embeddings for pretrained language models", 2021).
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cprec_jax.hf.load import load_params, read_config
from cprec_jax.hf.tokenizer_fit import check_fit
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, Params, abstract_params
from cprec_jax.parallel import rules

MULTIPLE = 128


def with_room(
    config: DecoderConfig,
    base_size: int,
    size: int,
    where: str,
    ids: Mapping[str, int] | None = None,
    named: Collection[str] = (),
) -> DecoderConfig:
    """The config with rows for `size` tokens, of which `base_size` are no new ones.

    A table that is too small for its own tokenizer is a `UserError`: they do not belong together. With the tokenizer's
    `ids` the message names a few tokens that are too many; those `named` in config.text.new_tokens get rows as new ones
    do.
    """
    ids = {f"token {index}": index for index in range(base_size)} if ids is None else ids
    base_ids = {text: index for text, index in ids.items() if index < base_size}
    check_fit(base_ids, config.vocab_size, "config.text.tokenizer", where, named)
    if size <= config.vocab_size:
        return config
    return dataclasses.replace(config, vocab_size=-(-size // MULTIPLE) * MULTIPLE)


def load_with_room(
    directory: Path,
    config: DecoderConfig,
    base_size: int,
    size: int,
    shardings: Any = None,
    named: Collection[str] = (),
) -> Params:
    """`load_params` for a `config` that `with_room` made; the rows of new tokens are the mean of the first `base_size`
    rows."""
    stored = read_config(directory)
    base_size = min(base_size, stored.vocab_size)  # beyond it are only tokens of `named`
    if size == base_size:
        return load_params(directory, stored, shardings, named)
    before = shardings
    if shardings is not None:
        before = rules.param_shardings(shardings["embed"].mesh, *abstract_params(Decoder(stored)))
    params = dict(load_params(directory, stored, before, named))
    for name in ("embed", "lm_head"):
        if name in params:
            params[name] = _extended(
                config.vocab_size, base_size, size, None if shardings is None else shardings[name]
            )(params[name])
    return params


def _extended(rows: int, base_size: int, size: int, sharding: Any) -> Any:
    def extend(table_VD: jax.Array) -> jax.Array:
        mean_D = table_VD[:base_size].mean(axis=0)
        index_V1 = jnp.arange(rows)[:, None]
        new_V1 = ((index_V1 >= base_size) & (index_V1 < size)) | (index_V1 >= table_VD.shape[0])
        return jnp.where(new_V1, mean_D, jnp.pad(table_VD, ((0, rows - table_VD.shape[0]), (0, 0))))

    return functools.partial(jax.jit, out_shardings=sharding)(extend)
