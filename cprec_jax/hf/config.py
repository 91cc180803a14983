"""`config.json` in and out, read as plain JSON: what a family does not support is refused by name, never approximated.

Read as JSON and not through transformers: it moved `rope_theta` into `rope_parameters`, and asking its config objects
for the old name silently gives a default. Both spellings are accepted and both are written. Defaults for absent keys
are those of transformers 5.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cprec_jax.errors import UserError
from cprec_jax.hf.keys import few
from cprec_jax.hf.rope import LOCAL_ROPE_THETA, parse_rope
from cprec_jax.hf.settings import Settings
from cprec_jax.model.config import DecoderConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What sets one `model_type` apart: fixed features, the key of its activation, defaults of absent keys."""

    architecture: str
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    biases: str = (
        "none"  # what `attention_bias` means: "none" it must be false, "all" q, k, v and o; "qkv" always q, k and v
    )
    window: str = "none"  # "all" layers, from "max_window_layers" on, or by a "pattern"
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    activation_key: str = "hidden_act"


FAMILIES = {
    "llama": Family(architecture="LlamaForCausalLM", biases="all"),
    "mistral": Family(
        architecture="MistralForCausalLM",
        window="all",
        defaults={"sliding_window": 4096, "max_position_embeddings": 131072},
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        biases="qkv",
        window="max_window_layers",
        defaults={"max_position_embeddings": 32768},
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        fixed={"qk_norm": "head"},
        biases="all",
        window="max_window_layers",
        defaults={"head_dim": 128, "max_position_embeddings": 32768},
    ),
    "olmo2": Family(
        architecture="Olmo2ForCausalLM",
        fixed={"qk_norm": "full", "norm_placement": "post"},
        biases="all",
        defaults={"rms_norm_eps": 1e-5},
    ),
    "gemma3_text": Family(
        architecture="Gemma3ForCausalLM",
        fixed={"qk_norm": "head", "norm_placement": "both", "norm_plus_one": True, "scale_embeddings": True},
        biases="all",
        window="pattern",
        defaults={
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 131072,
            "query_pre_attn_scalar": 256,
            "rope_theta": 1e6,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
        },
        activation_key="hidden_activation",
    ),
}
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
LAYER_TYPES = ("full_attention", "sliding_attention")

# features of transformers configs that would change the computation: key -> the values that leave it alone
MOST_LAYERS = 10_000  # more are a damaged file, whose tensors nobody wants listed
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_dropout": (None, 0, 0.0),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "partial_rotary_factor": (None, 1, 1.0),
    "quantization_config": (None,),
    "rope_interleaved": (None, False),
    "use_bidirectional_attention": (None, False),
    "use_mrope": (None, False),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "auto_map": (None,),  # remote code
}


def parse_config(raw: Mapping[str, Any], where: str) -> DecoderConfig:
    """The `DecoderConfig` of a parsed `config.json`; `where` starts every message. Raises `UserError` for anything
    unsupported."""
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(f"{where}: model_type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}")
    for key, neutral in _NEUTRAL.items():
        if raw.get(key) not in neutral:
            raise UserError(f"{where}: {key} = {raw[key]!r} is not supported; use a checkpoint without it")
    if raw.get("dtype") is not None and raw.get("torch_dtype") not in (None, raw["dtype"]):
        raise UserError(
            f"{where}: dtype = {raw['dtype']!r} and torch_dtype = {raw['torch_dtype']!r} contradict each other; keep "
            "one"
        )
    family = FAMILIES[model_type]
    get = Settings(raw, where, family.defaults)
    heads, hidden = get.integer("num_attention_heads"), get.integer("hidden_size")
    scaling, theta, local_theta = parse_rope(get, model_type)
    window, sliding_layers = _window(get, family)
    values: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": get.integer("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": get.integer("intermediate_size"),
        "num_layers": get.integer("num_hidden_layers", most=MOST_LAYERS),
        "num_heads": heads,
        "num_kv_heads": get.integer("num_key_value_heads", heads),
        "head_dim": get.integer("head_dim", hidden // heads),
        "max_position_embeddings": get.integer("max_position_embeddings", 2048),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "norm_eps": get.positive("rms_norm_eps", 1e-6),
        "tie_embeddings": get.flag("tie_word_embeddings"),
        "initializer_range": get.number("initializer_range", 0.02),
        "activation": _activation(get, family),
        "sliding_window": window,
        "sliding_layers": sliding_layers,
        **_biases(get, family),
        **family.fixed,
    }
    if model_type == "gemma3_text":
        values["query_scalar"] = get.positive("query_pre_attn_scalar", 256.0)
        values["local_rope_theta"] = local_theta if sliding_layers is not None else None
    try:
        return DecoderConfig(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _activation(get: Settings, family: Family) -> str:
    name = get.value(family.activation_key, str, "silu")
    if name not in ACTIVATIONS:
        raise UserError(
            f"{get.where}: {family.activation_key} = {name!r} is not supported; supported: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def _biases(get: Settings, family: Family) -> dict[str, bool]:
    biased, mlp = get.flag("attention_bias"), get.flag("mlp_bias")
    if mlp and get.raw["model_type"] != "llama":
        raise UserError(f"{get.where}: mlp_bias = true is not supported for model_type {get.raw['model_type']!r}")
    if (
        family.biases == "all"
    ):  # attention_bias adds o_proj.bias, too: overlooking it gives wrong logits without an error
        return {"attention_bias": biased, "attention_out_bias": biased, "mlp_bias": mlp}
    if biased and family.biases == "none":
        raise UserError(f"{get.where}: attention_bias = true is not supported for model_type {get.raw['model_type']!r}")
    return {"attention_bias": family.biases == "qkv", "attention_out_bias": False, "mlp_bias": mlp}


def _window(get: Settings, family: Family) -> tuple[int | None, tuple[bool, ...] | None]:
    """(window, layers that have it; None = all) as transformers decides it for the family."""
    window, layers = get.raw.get("sliding_window"), get.integer("num_hidden_layers", most=MOST_LAYERS)
    if family.window == "none":
        if get.raw.get("use_sliding_window"):
            raise UserError(
                f"{get.where}: use_sliding_window is not supported for model_type {get.raw['model_type']!r}"
            )
        return None, None
    if family.window == "max_window_layers" and not get.flag("use_sliding_window"):
        window = None
    if get.raw.get("layer_types") is not None and family.window != "all":
        types = get.value("layer_types", list)
        unknown = [kind for kind in types if kind not in LAYER_TYPES]
        if unknown or len(types) != layers:
            got = f"{len(types)}, {few(set(map(repr, unknown)))}" if unknown else f"{len(types)}"
            raise UserError(f"{get.where}: layer_types must be {layers} of {', '.join(LAYER_TYPES)}; got {got}")
        sliding = [kind == "sliding_attention" for kind in types]
    elif family.window == "max_window_layers":
        sliding = [i >= get.integer("max_window_layers", 28, least=0) for i in range(layers)]
    elif family.window == "pattern":
        period = get.integer("sliding_window_pattern", get.integer("_sliding_window_pattern", 6))
        sliding = [bool((i + 1) % period) for i in range(layers)]
    else:
        sliding = [True] * layers
    if window is None or not any(sliding):
        return None, None
    if all(sliding) and family.window != "pattern":  # Gemma 3's local layers have their own theta, too
        return get.integer("sliding_window"), None
    return get.integer("sliding_window"), tuple(sliding)


def unparse_config(config: DecoderConfig, dtype: str, token_ids: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of `config`, with both spellings of rope and dtype. `token_ids`: bos_token_id and so on.

    Raises `UserError` when the family cannot express the config (read back, the file would say something else).
    """
    family = FAMILIES[config.model_type]
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        rope = {"rope_type": config.rope_scaling.kind, "factor": config.rope_scaling.factor}
        if config.rope_scaling.kind == "llama3":
            for name in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
                rope[name] = getattr(config.rope_scaling, name)
    raw: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_eps,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_embeddings,
        family.activation_key: next(
            name for name, activation in ACTIVATIONS.items() if activation == config.activation
        ),
        "attention_dropout": 0.0,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope if config.rope_scaling else None,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
        **token_ids,
    }
    if family.biases == "all":
        raw["attention_bias"] = config.attention_bias
    if config.model_type == "llama":
        raw["mlp_bias"] = config.mlp_bias
    raw |= _unparse_window(config, family)
    again = dataclasses.replace(parse_config(raw, "config.json"), tied_tensor=config.tied_tensor)
    for field in dataclasses.fields(DecoderConfig):
        value, read = getattr(config, field.name), getattr(again, field.name)
        if value != read:
            raise UserError(
                f"model.{field.name} = {value!r} cannot be written as Hugging Face model_type {config.model_type!r} "
                f"(it has {read!r})"
            )
    return raw


def _unparse_window(config: DecoderConfig, family: Family) -> dict[str, Any]:
    if family.window == "none":
        return {}
    raw: dict[str, Any] = {"sliding_window": config.sliding_window}
    if family.window == "all":
        return raw
    sliding = config.sliding_layers or (config.sliding_window is not None,) * config.num_layers
    raw["layer_types"] = ["sliding_attention" if local else "full_attention" for local in sliding]
    if family.window == "max_window_layers":
        raw["use_sliding_window"] = config.sliding_window is not None
        raw["max_window_layers"] = sliding.index(True) if True in sliding else config.num_layers
        return raw
    local_theta = config.local_rope_theta or LOCAL_ROPE_THETA
    full = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        full |= {"rope_type": config.rope_scaling.kind, "factor": config.rope_scaling.factor}
    raw["rope_local_base_freq"] = local_theta
    raw["rope_parameters"] = {
        "full_attention": full,
        "sliding_attention": {"rope_type": "default", "rope_theta": local_theta},
    }
    scalar = config.query_scalar
    raw["query_pre_attn_scalar"] = int(scalar) if scalar is not None and scalar.is_integer() else scalar  # an int there
    return raw
