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

    def hf_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape in Hugging Face's layout of an array of this `shape` in ours."""
        sizes = [shape[axis] for axis in self.order]
        if self.merged >= 0:
            sizes[self.merged : self.merged + 2] = [sizes[self.merged] * sizes[self.merged + 1]]
        return tuple(sizes)

    def hf_index(self, index: Index, shape: Sequence[int]) -> Index:
        """The slice of the Hugging Face tensor that holds the slice `index` of our array of this `shape`. The second of
        two merged axes (head_dim) is never cut."""
        bounds = [index[axis].indices(shape[axis])[:2] for axis in self.order]
        if self.merged >= 0:
            inner = shape[self.order[self.merged + 1]]
            (start, stop), head = bounds[self.merged : self.merged + 2]
            assert head == (0, inner), "head_dim is never sharded"
            bounds[self.merged : self.merged + 2] = [(start * inner, stop * inner)]
        return tuple(slice(start, stop) for start, stop in bounds)

    def from_hf(self, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """A (sliced) Hugging Face array in our layout, of this `shape`; a view where possible."""
        return array.reshape([shape[axis] for axis in self.order]).transpose(np.argsort(self.order))

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """Our array of one layer in Hugging Face's layout, contiguous: `safetensors` writes other arrays wrongly."""
        return np.ascontiguousarray(array.transpose(self.order).reshape(self.hf_shape(array.shape)))


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

    def hf_shape(self, tree: Any) -> tuple[int, ...]:
        """The shape of the Hugging Face tensor, from a tree of ours (arrays or shapes)."""
        shape = self.leaf(tree).shape
        return self.layout.hf_shape(shape if self.layer is None else shape[1:])


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
    for name in ("q", "k", "v"):
        table[f"self_attn.{name}_proj.weight"] = ("attention", name), TO_HEADS
        if config.attention_bias:
            table[f"self_attn.{name}_proj.bias"] = ("attention", f"{name}_bias"), HEAD_VECTOR
    table["self_attn.o_proj.weight"] = ("attention", "o"), FROM_HEADS
    if config.attention_out_bias:
        table["self_attn.o_proj.bias"] = ("attention", "o_bias"), VECTOR
    if config.qk_norm != "none":
        table |= {f"self_attn.{name}.weight": (("attention", name), VECTOR) for name in ("q_norm", "k_norm")}
    for name in ("gate", "up", "down"):
        table[f"mlp.{name}_proj.weight"] = ("mlp", name), LINEAR
        if config.mlp_bias:
            table[f"mlp.{name}_proj.bias"] = ("mlp", f"{name}_bias"), VECTOR
    table |= {f"{hf_name}.weight": ((name,), VECTOR) for name, hf_name in _NORMS[config.norm_placement].items()}
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
