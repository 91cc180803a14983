import dataclasses
import json

import jax
import pytest

from cprec_jax.errors import UserError
from cprec_jax.hf import config as config_module
from cprec_jax.hf import keys
from cprec_jax.hf.config import parse_config, unparse_config
from cprec_jax.model.config import RopeScaling
from cprec_jax.model.decoder import Decoder, abstract_params, count_params
from tests.hf.families import FAMILIES, SIZES
from tests.model.tiny import tiny_config

# parameters of the published models (their model cards, exactly)
REAL = {
    "smollm2-135m": 134_515_008,
    "smollm2-135m-instruct": 134_515_008,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-0.5b-instruct": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen3-0.6b": 596_049_920,
    "qwen3-0.6b-base": 596_049_920,
    "llama-3.2-1b": 1_235_814_400,
    "gemma-3-270m-it": 268_098_176,
    "gemma-3-1b-it": 999_885_952,
}

LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
}


def real_config(shared_models, name):
    path = shared_models.parent / "hf_configs" / f"{name}.config.json"
    if not path.exists():
        pytest.skip(f"third-party file {path} is absent")
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", REAL)
def test_real_configs_have_the_published_number_of_parameters(shared_models, name):
    config = parse_config(real_config(shared_models, name), name)
    assert count_params(config) == REAL[name]
    assert parse_config(unparse_config(config, "bfloat16", {}), "again") == config


@pytest.mark.torch
@pytest.mark.parametrize("name", REAL)
def test_real_keys_and_shapes_are_those_of_transformers(shared_models, name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    raw = real_config(shared_models, name)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**raw))
    hf_shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    config = parse_config(raw, name)
    shapes, _ = abstract_params(Decoder(config))
    tensor_shapes = {}
    for tensor in keys.tensors(config):
        leaf = shapes
        for key in tensor.path:
            leaf = leaf[key]
        tensor_shapes[tensor.name] = tensor.layout.hf_shape(leaf.shape if tensor.layer is None else leaf.shape[1:])
    if config.tie_embeddings:  # the head is the same tensor there
        hf_shapes.pop("lm_head.weight")
    assert tensor_shapes == hf_shapes


def test_details_of_real_configs(shared_models):
    llama = parse_config(real_config(shared_models, "llama-3.2-1b"), "llama")
    assert llama.rope_scaling == RopeScaling(kind="llama3", factor=32.0, original_max_position_embeddings=8192)
    assert (llama.rope_theta, llama.tie_embeddings, llama.num_kv_heads) == (500000.0, True, 8)
    qwen2 = parse_config(real_config(shared_models, "qwen2.5-0.5b"), "qwen2")
    assert (qwen2.attention_bias, qwen2.attention_out_bias, qwen2.sliding_window) == (True, False, None)
    qwen3 = parse_config(real_config(shared_models, "qwen3-0.6b"), "qwen3")
    assert (qwen3.qk_norm, qwen3.head_dim, qwen3.attention_bias) == ("head", 128, False)
    for name, layers in (
        ("gemma-3-270m-it", 18),
        ("gemma-3-1b-it", 26),
    ):  # one writes layer_types, the other only the period
        gemma = parse_config(real_config(shared_models, name), name)
        assert gemma.sliding_layers == tuple(bool((i + 1) % 6) for i in range(layers))
        assert (gemma.sliding_window, gemma.rope_theta, gemma.local_rope_theta, gemma.tie_embeddings) == (
            512,
            1e6,
            1e4,
            True,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mixtral"}, "'mixtral' is not supported; supported: llama"),
        ({"model_type": None}, "None is not supported"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope type 'yarn'"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "needs low_freq_factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.1}}, "factor 0.1"),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 4.0},
            },
            "contradict",
        ),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"num_local_experts": 8}, "num_local_experts = 8"),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"auto_map": {"AutoModel": "modeling.X"}}, "auto_map"),
        (
            {"model_type": "mistral", "attention_bias": True},
            "attention_bias = true is not supported for model_type 'mistral'",
        ),
        ({"model_type": "qwen3", "mlp_bias": True}, "mlp_bias"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        (
            {
                "model_type": "qwen3",
                "use_sliding_window": True,
                "sliding_window": 4,
                "layer_types": ["chunked_attention"] * 2,
            },
            "chunked_attention",
        ),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"vocab_size": "64"}, "vocab_size = '64' has the wrong type"),
        ({"num_key_value_heads": 3}, "multiple of num_kv_heads"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\] is not supported"),
        ({"hidden_act": ["silu"]}, r"hidden_act = \['silu'\] has the wrong type"),
        ({"hidden_act": ""}, "hidden_act = '' is not supported"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0 must be at least 1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000 must be at most 10000"),
        ({"vocab_size": 2**31}, "vocab_size = 2147483648 must be at most 2147483647"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True has the wrong type"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps = -1e-06 must be above 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan is not a finite number"),
        ({"rope_theta": 0}, "rope_theta = 0.0 must be above 0"),
        ({"rope_theta": 10**400}, "rope_theta = 1000.* is not a finite number"),
        ({"rope_scaling": "linear"}, "rope_scaling = 'linear' has the wrong type"),
        ({"rope_scaling": ["linear"]}, r"rope_scaling = \['linear'\] has the wrong type"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "rope_scaling: factor = '2' has the wrong type"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": float("nan")}},
            "rope_scaling: factor = nan is not a finite",
        ),
        ({"rope_scaling": {"rope_type": "linear", "type": "mrope", "factor": 2.0}}, "rope type 'mrope'"),
        (
            {"rope_scaling": {"rope_type": "linear", "type": "llama3", "factor": 2.0}},
            "rope_type 'linear' and type 'llama3' contradict",
        ),
        ({"rope_parameters": {"rope_theta": "1e4"}}, "rope_parameters: rope_theta = '1e4' has the wrong type"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "rope_parameters by layer type is not supported",
        ),
        (
            {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}},
            "rope_theta contradict each other: 10000.0, 500000.0",
        ),
        (
            {"rope_scaling": {"rope_theta": 5e5}, "rope_parameters": {"rope_theta": 1e4}},
            "rope_theta contradict each other",
        ),
        (
            {
                "model_type": "gemma3_text",
                "rope_local_base_freq": 1e3,
                "rope_parameters": {"sliding_attention": {"rope_theta": 1e4}},
            },
            "rope_local_base_freq and a rope_theta contradict",
        ),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}},
            },
            "sliding_attention: a scaled rope type is not supported",
        ),
        (
            {"model_type": "gemma3_text", "rope_parameters": {"full_attention": 5}},
            "rope_parameters: full_attention = 5 has the wrong",
        ),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 0}, "sliding_window_pattern = 0 must be at least 1"),
        (
            {"model_type": "gemma3_text", "_sliding_window_pattern": "6"},
            "_sliding_window_pattern = '6' has the wrong type",
        ),
        ({"model_type": "gemma3_text", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar = 0.0 must be above 0"),
        ({"model_type": "gemma3_text", "layer_types": 5}, "layer_types = 5 has the wrong type"),
        (
            {"model_type": "gemma3_text", "layer_types": [["full_attention"], 5]},
            r"full_attention, sliding_attention; got 2, 5, \['full",
        ),
        ({"dtype": "bfloat16", "torch_dtype": "float32"}, "dtype = 'bfloat16' and torch_dtype = 'float32' contradict"),
    ],
)
def test_unsupported_features_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_config({**LLAMA, **change}, "DIR/config.json")
    assert str(caught.value).startswith("DIR/config.json: ") and "\n" not in str(caught.value)


def test_llamas_attention_bias_includes_the_output_projection():
    config = parse_config({**LLAMA, "attention_bias": True}, "x")
    assert config.attention_bias and config.attention_out_bias


@pytest.mark.parametrize("spelling", ["old", "older", "new", "both"])
def test_rope_spellings(spelling):
    scaling = {"factor": 2.0}
    changes = {
        "old": {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", **scaling}},
        "older": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", **scaling}},
        "new": {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", **scaling}},
    }
    changes["both"] = {**changes["old"], **changes["new"]}
    config = parse_config({**LLAMA, **changes[spelling]}, "x")
    assert (config.rope_theta, config.rope_scaling) == (5e5, RopeScaling(kind="linear", factor=2.0))


def test_null_means_the_default_of_the_family():
    nulls = {
        "rope_theta": None,
        "rope_parameters": None,
        "rope_scaling": None,
        "hidden_activation": None,
        "sliding_window_pattern": None,
    }
    gemma = {**LLAMA, "model_type": "gemma3_text"}
    config = parse_config({**gemma, **nulls}, "x")
    assert config == parse_config(gemma, "x") and (config.rope_theta, config.activation) == (1e6, "gelu_tanh")
    one_layer_type = {"full_attention": {"rope_theta": None}, "sliding_attention": {"rope_theta": 100.0}}
    assert parse_config({**gemma, "rope_parameters": one_layer_type}, "x") == dataclasses.replace(
        config, local_rope_theta=100.0
    )


# what transformers' config classes have and no decoder's logits depend on
WITHOUT_EFFECT = {"initializer_range", "pad_token_id", "bos_token_id", "eos_token_id", "use_cache", "pretraining_tp"}


@pytest.mark.parametrize("model_type", config_module.FAMILIES)
def test_every_setting_of_transformers_is_read_or_refused(model_type):
    """A setting that a later transformers adds to a family fails here until somebody decides about it: nonsense in it
    is not noticed."""
    from transformers import AutoConfig, PretrainedConfig

    base = {**LLAMA, "model_type": model_type, "sliding_window": 4}
    if config_module.FAMILIES[model_type].window == "max_window_layers":
        base |= {"use_sliding_window": True, "max_window_layers": 1}
    parse_config(base, "x")
    settings = AutoConfig.for_model(model_type).to_dict().keys() - PretrainedConfig().to_dict().keys() - WITHOUT_EFFECT
    assert len(settings) > 10
    for name in settings:
        with pytest.raises(UserError, match=f"^x: {name} "):
            parse_config({**base, name: ["nonsense"]}, "x")


@pytest.mark.parametrize("name", FAMILIES)
def test_written_config_reads_back_and_has_both_spellings(name):
    raw = {**SIZES, "hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh", **FAMILIES[name]}
    config = parse_config(raw, name)
    written = unparse_config(config, "bfloat16", {"bos_token_id": 1})
    assert parse_config(json.loads(json.dumps(written)), "again") == config
    assert written["dtype"] == written["torch_dtype"] == "bfloat16"
    assert written["rope_theta"] == config.rope_theta and "rope_parameters" in written and written["bos_token_id"] == 1


def test_what_the_family_cannot_say_is_not_written():
    with pytest.raises(UserError, match=r"model.qk_norm = 'head' cannot be written as Hugging Face model_type 'llama'"):
        unparse_config(tiny_config(qk_norm="head"), "float32", {})


def test_no_parameter_without_a_tensor():
    for change in FAMILIES.values():
        config = parse_config({**SIZES, "hidden_activation": "gelu_pytorch_tanh", **change}, "x")
        shapes, _ = abstract_params(Decoder(config))
        paths = {tuple(entry.key for entry in path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)}
        assert paths == set(keys.by_parameter(config))
