"""LoRA in a run: which weights get an adapter, a fresh one, and the base as the step reads it."""

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
    """The adapters that `spec` asks for in a decoder. where: its dotted name, for messages.

    Raises `UserError` for a pattern that matches no linear layer, or embedding or head.
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
    """The names of the weights of linear layers: what is a matrix in each layer, on whatever side the residual stream
    is."""
    axes = by_name(abstract_params(Decoder(config))[1], is_leaf=lambda node: isinstance(node, tuple))
    return [name for name, leaf_axes in axes.items() if name.startswith(LAYERS) and "embed" in leaf_axes]


def _why_nothing(pattern: str, config: DecoderConfig, linear: list[str]) -> str:
    if not any(matches(pattern, name) for name in (EMBEDDING, HEAD)):
        return f"matches no linear layer{nearest(pattern, linear)}"
    if config.tie_embeddings:
        return (
            "is the embedding, which is the head, too, in this model (tied): an adapter on one would change the "
            "other, or part the two; "
            "an adapter stands on linear layers alone"
        )
    return "is the embedding or the head; an adapter stands on the linear layers of `layers/` alone"


def same_adapters(first: Adapters, second: Adapters) -> bool:
    """Whether the parameters of one mean the same in the other: all but dropout."""
    return (first.weights, first.rank, first.scale) == (second.weights, second.rank, second.scale)


def fresh_adapter(decoder: Decoder, seed: int, mesh: jax.sharding.Mesh) -> Leaves:
    """The parameters of new adapters on the devices of `mesh`: the model is what it was."""
    shapes, axes = abstract_params(decoder)
    base = base_names(shapes)
    shardings, _ = split(rules.param_shardings(mesh, shapes, axes), base)
    return jax.jit(lambda key: split(init_params(decoder, key), base)[0], out_shardings=shardings)(jax.random.key(seed))


def base_names(params: Any) -> frozenset[str]:
    """The names of all parameters but those of adapters."""
    return frozenset(name for name in by_name(params) if not is_adapter(name))


def as_read(frozen: Mapping[str, Any], dtype: jnp.dtype) -> Leaves:
    """What no step changes, in the dtype that the step reads it in (`dtype_as_read`). Takes over `frozen`."""

    def cast_leaf(path: Any, leaf: jax.Array) -> jax.Array:
        wanted = dtype_as_read(path[-1].key, leaf.dtype, dtype)
        if leaf.dtype == wanted:
            return leaf
        cast = jax.jit(lambda x: x.astype(wanted), out_shardings=leaf.sharding)(leaf)
        jax.block_until_ready(cast)
        leaf.delete()  # one leaf at a time, so that there are never two copies of the base
        return cast

    return jax.tree_util.tree_map_with_path(cast_leaf, dict(frozen))


def dtype_as_read(name: str, stored: jnp.dtype, computed: jnp.dtype) -> jnp.dtype:
    """The dtype of a leaf that no step changes: that of the computation, but for what is read in float32 (norms) and
    for adapters.

    Every other parameter is cast to it where it is used, so that no bit of the computation changes.
    """
    return stored if name.endswith("norm") or is_adapter(name) else computed
