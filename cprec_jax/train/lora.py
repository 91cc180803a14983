"""LoRA in a run: which weights get an adapter, new adapters, and the dtype in which the step reads the base."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cprec_jax.config.build import nearest
from cprec_jax.config.lora import LoraSpec
from cprec_jax.errors import UserError
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, abstract_params, init_params
from cprec_jax.model.lora import Adapters, is_adapter
from cprec_jax.parallel import rules
from cprec_jax.train.leaves import Leaves, by_name, matches, split

WHERE = "config.runs.*.lora"
EMBEDDING, HEAD, LAYERS = "embed", "lm_head", "layers/"


def adapters_of(spec: LoraSpec, config: DecoderConfig, where: str = WHERE) -> Adapters:
    """The adapters that `spec` means in a decoder. where: its config key, for messages.

    Raises `UserError` for a pattern that matches no linear layer.
    """
    linear = linear_layers(config)
    chosen: dict[str, None] = {}
    for pattern in spec.targets:
        matched = [name for name in linear if matches(pattern, name)]
        if not matched:
            raise UserError(f"{where}.targets: {pattern!r} {_why_nothing(pattern, config, linear)}")
        chosen |= dict.fromkeys(matched)
    weights = tuple(name.removeprefix(LAYERS) for name in linear if name in chosen)
    return Adapters(weights=weights, rank=spec.rank, scale=spec.scale, dropout=spec.dropout)


def linear_layers(config: DecoderConfig) -> list[str]:
    """The names of the weights of linear layers: those of a layer with the residual stream as input or output."""
    axes = by_name(abstract_params(Decoder(config))[1], is_leaf=lambda node: isinstance(node, tuple))
    return [name for name, leaf_axes in axes.items() if name.startswith(LAYERS) and "embed" in leaf_axes]


def _why_nothing(pattern: str, config: DecoderConfig, linear: list[str]) -> str:
    if not any(matches(pattern, name) for name in (EMBEDDING, HEAD)):
        return f"matches no linear layer{nearest(pattern, linear)}"
    if config.tie_embeddings:
        return (
            "is the embedding, which is also the head of this model (tied): an adapter on one would change the "
            "other, or untie the two; only the linear layers of `layers/` can have an adapter"
        )
    return "is the embedding or the head; only the linear layers of `layers/` can have an adapter"


def same_adapters(first: Adapters, second: Adapters) -> bool:
    """Whether parameters of one can be used in the other: weights, rank and scale are equal; dropout may differ."""
    return (first.weights, first.rank, first.scale) == (second.weights, second.rank, second.scale)


def fresh_adapter(decoder: Decoder, seed: int, mesh: jax.sharding.Mesh) -> Leaves:
    """The parameters of new adapters, on the devices of `mesh`; they do not change the model's output."""
    shapes, axes = abstract_params(decoder)
    base = base_names(shapes)
    shardings, _ = split(rules.param_shardings(mesh, shapes, axes), base)
    return jax.jit(lambda key: split(init_params(decoder, key), base)[0], out_shardings=shardings)(jax.random.key(seed))


def base_names(params: Any) -> frozenset[str]:
    """The names of all parameters except those of adapters."""
    return frozenset(name for name in by_name(params) if not is_adapter(name))


def as_read(frozen: Mapping[str, Any], dtype: jnp.dtype) -> Leaves:
    """The frozen leaves in the dtype in which the step reads them (`dtype_as_read`). Deletes the arrays it casts."""

    def cast_leaf(path: Any, leaf: jax.Array) -> jax.Array:
        wanted = dtype_as_read(path[-1].key, leaf.dtype, dtype)
        if leaf.dtype == wanted:
            return leaf
        cast = jax.jit(lambda x: x.astype(wanted), out_shardings=leaf.sharding)(leaf)
        jax.block_until_ready(cast)
        leaf.delete()  # leaf by leaf, so that there are never two copies of the base
        return cast

    return jax.tree_util.tree_map_with_path(cast_leaf, dict(frozen))


def dtype_as_read(name: str, stored: jnp.dtype, computed: jnp.dtype) -> jnp.dtype:
    """The dtype in which the step reads a frozen leaf: `computed`, but `stored` for norms and adapters.

    Norms are computed in float32. Every other parameter is cast to `computed` where it is used, so that casting it
    earlier changes no bit of the result.
    """
    return stored if name.endswith("norm") or is_adapter(name) else computed
