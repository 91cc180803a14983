"""`config.model`: what training starts from, and how it computes."""

from dataclasses import dataclass
from typing import Literal

from cprec_jax.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A base model (`init_from`), or the shape of a new Llama, whose vocabulary is the tokenizer's, rounded up to a
    multiple of 64."""

    init_from: str | None = setting(
        None, "a Hugging Face directory or hub id owner/name[@revision]; the shape is that model's then", content=True
    )
    hidden_size: int = setting(192, "width")
    intermediate_size: int = setting(512, "width of the feed-forward layers")
    num_layers: int = setting(4, "decoder layers")
    num_heads: int = setting(6, "query heads")
    num_kv_heads: int = setting(6, "key and value heads")
    head_dim: int | None = setting(None, "width of a head (None: hidden_size / num_heads)")
    tie_embeddings: bool = setting(True, "the output layer is the embedding")
    rope_theta: float = setting(10000.0, "base of the rotary position embedding")
    max_position_embeddings: int = setting(4096, "longest context in tokens")
    initializer_range: float = setting(0.02, "standard deviation of new weights")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "of the computation; parameters are float32")
    remat: Literal["none", "full", "dots"] = setting(
        "none", "what is computed again in the backward pass, to save memory"
    )
    unroll: bool = setting(False, "compile each layer by itself; faster where there are few")
    dropout: float = setting(0.0, "rate in [0, 1), in training alone")
    attention: Literal["auto", "xla", "cudnn", "splash"] = setting(
        "auto", "backend; auto goes by the device, and the log says which and why"
    )
    attention_segments: int | None = setting(
        None,
        "the most documents and padding a row may hold under cudnn, whose memory grows with it (None: what the rows "
        "hold)",
        affects=(),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must lie in [0, 1)")
        if self.attention_segments is not None and self.attention_segments < 2:
            raise ValueError(
                f"attention_segments {self.attention_segments} must be at least 2 (a document and padding)"
            )
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}; set head_dim"
            )
