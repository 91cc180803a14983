"""The shape of a decoder: one frozen dataclass that covers every supported family."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are scaled for contexts longer than the original one.

    `linear` divides every frequency by `factor`. `llama3` divides only low frequencies (wavelength above
    original_max_position_embeddings / low_freq_factor), keeps high ones (below .../ high_freq_factor) and interpolates
    between (Llama 3.1 reference code). Raises `ValueError` for impossible factors.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor {self.factor} must be at least 1")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor {self.low_freq_factor} must be below high_freq_factor {self.high_freq_factor}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Architecture of a decoder-only transformer; the defaults are Llama's.

    The last group holds what other families do differently: Qwen 2 (biases), Qwen 3 (`qk_norm="head"`), Mistral
    (window), OLMo 2 (`norm_placement="post"`, `qk_norm="full"`), Gemma 3 (most of them). Raises `ValueError` for
    impossible shapes.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    model_type: Literal["llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma3_text"] = "llama"
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    # the tensor that a tied Hugging Face checkpoint stores
    tied_tensor: Literal["embed_tokens", "lm_head", "both"] = "embed_tokens"
    initializer_range: float = 0.02
    activation: Literal["silu", "gelu_tanh"] = "silu"

    attention_bias: bool = False  # on the q, k and v projections
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"  # over head_dim, or over all heads together
    norm_placement: Literal["pre", "post", "both"] = "pre"  # of a sublayer: on its input, its output, or both
    norm_plus_one: bool = False  # the norm multiplies by (1 + scale)
    scale_embeddings: bool = False  # the embedding is multiplied by sqrt(hidden_size)
    query_scalar: float | None = None  # scores are divided by sqrt(query_scalar) instead of sqrt(head_dim)
    attention_softcap: float | None = None  # scores become cap * tanh(scores / cap)
    sliding_window: int | None = None  # a query sees itself and the window - 1 positions before it
    sliding_layers: tuple[bool, ...] | None = None  # which layers have the window; None = all of them
    local_rope_theta: float | None = None  # theta of the layers with the window (never scaled), if it differs

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even (rotary embedding rotates pairs)")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window {self.sliding_window} must be at least 1")
        if self.sliding_layers is not None:
            if self.sliding_window is None:
                raise ValueError("sliding_layers needs sliding_window")
            if len(self.sliding_layers) != self.num_layers:
                raise ValueError(
                    f"sliding_layers has {len(self.sliding_layers)} entries for num_layers {self.num_layers}"
                )
        if self.local_rope_theta is not None and self.sliding_layers is None:
            raise ValueError("local_rope_theta needs sliding_layers")
