"""Prompts before they meet a language model: whether they fit its context, and where their arrays lie."""

from typing import Any

import jax
from jax.sharding import Mesh

from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.errors import UserError
from cprec_jax.inference.prompts import PromptBatch
from cprec_jax.parallel.rules import batch_sharding
from cprec_jax.train.open import LoadedModel


def check_room(model: LoadedModel, spec: EvaluateSpec, set_name: str, longest: int) -> None:
    """`UserError` where prompts and the `longest` tokens of a title do not fit the model's context together."""
    limit = model.decoder.config.max_position_embeddings
    if spec.prompt_tokens + longest > limit:
        raise UserError(
            f"config.evaluate.prompt_tokens: {spec.prompt_tokens} and the titles of set {set_name} ({longest} tokens) "
            f"do not fit the model's context of {limit}; use at most {limit - longest}"
        )


def placed(batch: PromptBatch, mesh: Mesh) -> tuple[Any, Any]:
    """Tokens and lengths of a batch, its users shared out over the devices."""
    arrays = (batch.tokens, batch.lengths)
    return arrays if mesh.size == 1 else jax.device_put(arrays, batch_sharding(mesh, len(batch.tokens)))
