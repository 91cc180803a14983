"""Strict key maps: which Hugging Face tensor is which of our parameters, and how their axes correspond.

Their layers are separate tensors and ours are stacked on a leading axis; their matrices are [out, in] with heads and
head_dim merged.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from cprec_jax.model import lora
from cprec_jax.model.config import DecoderConfig

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Path = tuple[str, ...]
Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """`order`: our axes (one layer's) in their order. `merged`: the position in `order` whose axis is merged with the
    next, or -1."""

    order: tuple[int, ...]
    merged: int = -1

    def their_shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        sizes = [ours[axis] for axis in self.order]
        if self.merged >= 0:
            sizes[self.merged : self.merged + 2] = [sizes[self.merged] * sizes[self.merged + 1]]
        return tuple(sizes)

    def their_index(self, index: Index, ours: Sequence[int]) -> Index:
        """The slice of their tensor that holds our slice `index`. The second of two merged axes (head_dim) is always
        whole."""
        bounds = [index[axis].indices(ours[axis])[:2] for axis in self.order]
        if self.merged >= 0:
            inner = ours[self.order[self.merged + 1]]
            (start, stop), whole = bounds[self.merged : self.merged + 2]
            assert whole == (0, inner), "head_dim is never sharded"
            bounds[self.merged : self.merged + 2] = [(start * inner, stop * inner)]
        return tuple(slice(start, stop) for start, stop in bounds)

    def to_ours(self, theirs: np.ndarray, ours: Sequence[int]) -> np.ndarray:
        """Their (sliced) array as ours, of shape `ours`; a view where possible."""
        return theirs.reshape([ours[axis] for axis in self.order]).transpose(np.argsort(self.order))

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        """Our array of one layer as theirs, contiguous: `safetensors` writes other arrays wrongly."""
        return np.ascontiguousarray(ours.transpose(self.order).reshape(self.their_shape(ours.shape)))


VECTOR = Layout((0,))
TABLE = Layout((0, 1))
LINEAR = Layout((1, 0))  # ours [in, out], theirs [out, in]
TO_HEADS = Layout((1, 2, 0), merged=0)  # ours [D, H, h], theirs [H h, D]
FROM_HEADS = Layout((2, 0, 1), merged=1)  # ours [H, h, D], theirs [D, H h]
HEAD_VECTOR = Layout((0, 1), merged=0)  # ours [H, h], theirs [H h]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of theirs: the parameter that holds it, the layer (None if it is not stacked) and the layout."""

    name: str
    path: Path
    layer: int | None
    layout: Layout

    def leaf(self, tree: Any) -> Any:
        """Its parameter in a tree of ours: all layers of a stacked one."""
        for key in self.path:
            tree = tree[key]
        return tree

    def their_shape(self, tree: Any) -> tuple[int, ...]:
        """The shape of theirs, from a tree of ours (arrays or shapes)."""
        shape = self.leaf(tree).shape
        return self.layout.their_shape(shape if self.layer is None else shape[1:])


_NORMS = {  # our norm -> theirs, by where the norms stand
    "pre": {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    "post": {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"},
    "both": {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
}


def layer_table(config: DecoderConfig) -> dict[str, tuple[Path, Layout]]:
    """The tensors of one layer: their name inside `model.layers.N.` -> (our path inside `layers`, layout)."""
    table: dict[str, tuple[Path, Layout]] = {}
    for ours in ("q", "k", "v"):
        table[f"self_attn.{ours}_proj.weight"] = ("attention", ours), TO_HEADS
        if config.attention_bias:
            table[f"self_attn.{ours}_proj.bias"] = ("attention", f"{ours}_bias"), HEAD_VECTOR
    table["self_attn.o_proj.weight"] = ("attention", "o"), FROM_HEADS
    if config.attention_out_bias:
        table["self_attn.o_proj.bias"] = ("attention", "o_bias"), VECTOR
    if config.qk_norm != "none":
        table |= {f"self_attn.{name}.weight": (("attention", name), VECTOR) for name in ("q_norm", "k_norm")}
    for ours in ("gate", "up", "down"):
        table[f"mlp.{ours}_proj.weight"] = ("mlp", ours), LINEAR
        if config.mlp_bias:
            table[f"mlp.{ours}_proj.bias"] = ("mlp", f"{ours}_bias"), VECTOR
    table |= {f"{theirs}.weight": ((ours,), VECTOR) for ours, theirs in _NORMS[config.norm_placement].items()}
    return table


def tensors(config: DecoderConfig) -> list[Tensor]:
    """Every tensor of a checkpoint of this config, in the order of its file."""
    result = []
    if not config.tie_embeddings or config.tied_tensor in ("embed_tokens", "both"):
        result.append(Tensor("model.embed_tokens.weight", ("embed",), None, TABLE))
    table = layer_table(config)
    for layer in range(config.num_layers):
        for name, (path, layout) in table.items():
            result.append(Tensor(f"model.layers.{layer}.{name}", ("layers", *path), layer, layout))
    result.append(Tensor("model.norm.weight", ("final_norm",), None, VECTOR))
    if not config.tie_embeddings:
        result.append(Tensor("lm_head.weight", ("lm_head",), None, TABLE))
    elif config.tied_tensor in ("lm_head", "both"):
        result.append(Tensor("lm_head.weight", ("embed",), None, TABLE))
    return result


def adapter_tensors(config: DecoderConfig, weights: Collection[str]) -> list[Tensor]:
    """Every tensor of a PEFT adapter of these weights (named as in `Adapters`), in the order of its file: A [r, in] and
    B [out, r]."""
    result = []
    for layer in range(config.num_layers):
        for name, (path, layout) in layer_table(config).items():
            if "/".join(path) not in weights:
                continue
            module = f"base_model.model.model.layers.{layer}.{name.removesuffix('.weight')}"
            *before, last = ("layers", *path)
            a = FROM_HEADS if layout is FROM_HEADS else LINEAR
            b = TO_HEADS if layout is TO_HEADS else LINEAR
            result.append(Tensor(module + LORA_A, (*before, last + lora.A), layer, a))
            result.append(Tensor(module + LORA_B, (*before, last + lora.B), layer, b))
    return result


def by_parameter(config: DecoderConfig) -> dict[Path, list[Tensor]]:
    """The same, grouped by our parameter: one tensor a layer where layers are stacked."""
    groups: dict[Path, list[Tensor]] = {}
    for tensor in tensors(config):
        groups.setdefault(tensor.path, []).append(tensor)
    return groups


def derived(name: str) -> bool:
    """Whether old checkpoints store this tensor although the config determines it (rotary frequencies)."""
    return name.endswith(".rotary_emb.inv_freq")


def few(names: Iterable[str], limit: int = 5) -> str:
    """The first names of a list, for a message."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more
