"""Tiny random checkpoints of every family, made by transformers (not by us), and the way to run them there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]

FAMILIES: dict[str, dict[str, Any]] = {
    "smollm2": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "num_attention_heads": 6,
        "hidden_size": 48,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "rope_interleaved": False,
        "is_llama_config": True,
    },
    "llama-untied-biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama3-scaled": {
        "model_type": "llama",
        "rope_parameters": {**LLAMA3, "rope_theta": 1000.0},
        "tie_word_embeddings": True,
    },
    "llama-linear": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    },
    "mistral": {"model_type": "mistral", "sliding_window": 7},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-sliding": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "olmo2": {"model_type": "olmo2"},
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "sliding_window": 7,
        "layer_types": SLIDING,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
}
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,  # torch gives the padding row no input gradient
    "attn_implementation": "eager",
}


def torch_model(name: str, dtype: str = "float32") -> Any:
    """A random model of the family with every parameter away from its initial value (norms not one, biases not
    zero)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**{**SIZES, **FAMILIES[name]})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise + (1.0 if parameter.ndim == 1 else 0.0))
    return model.to(getattr(torch, dtype))


def checkpoint(name: str, directory: Path, dtype: str = "float32") -> Path:
    torch_model(name, dtype).save_pretrained(directory)
    return directory


def torch_run(model: Any, tokens_BT: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits, and the gradients of the mean next-token loss by tensor name."""
    import torch

    tokens = torch.tensor(np.asarray(tokens_BT), dtype=torch.long)
    model.zero_grad()
    result = model(tokens)
    loss = torch.nn.functional.cross_entropy(result.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return result.logits.detach().numpy(), gradients
