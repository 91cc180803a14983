"""A PEFT adapter as a model: summed with its base in float32, and refused by name where it is more than LoRA."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cprec_jax.errors import UserError
from cprec_jax.hf import adapter
from cprec_jax.hf.load import check_model, load_params, read_config
from cprec_jax.hf.save import save
from cprec_jax.model.decoder import abstract_params
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.parallel.rules import param_shardings
from cprec_jax.train.leaves import by_name
from tests.model.tiny import tiny

R = 5
Q, DOWN, OUT = "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj", "model.layers.2.self_attn.o_proj"
# down's input is two blocks
SHAPE = {
    "hidden_size": 24,
    "intermediate_size": 300,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 8,
}
SETTINGS: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": R,
    "lora_alpha": 10,
    "target_modules": ["q_proj"],
}


def factors(base: Path, *modules: str, dtype: Any = np.float32, rank: int = R) -> dict[str, np.ndarray]:
    shapes = {name: value.shape for name, value in load_file(base / "model.safetensors").items()}
    rng = np.random.default_rng(0)
    arrays = {}
    for module in modules:
        n_out, n_in = shapes[f"{module}.weight"]
        arrays[f"base_model.model.{module}.lora_A.weight"] = rng.normal(size=(rank, n_in)).astype(dtype)
        arrays[f"base_model.model.{module}.lora_B.weight"] = rng.normal(size=(n_out, rank)).astype(dtype)
    return arrays


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base") / "model"
    decoder, params = tiny(**SHAPE)
    save(directory, params, decoder.config, None, "# Base\n", dtype="bfloat16")
    return directory


def write(directory: Path, base: Path, tensors: dict[str, np.ndarray], **changes: Any) -> Path:
    directory.mkdir()
    settings = {**SETTINGS, "base_model_name_or_path": str(base), **changes}
    (directory / "adapter_config.json").write_text(json.dumps({k: v for k, v in settings.items() if v != "absent"}))
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def tensor(base: Path, name: str) -> np.ndarray:
    return load_file(base / "model.safetensors")[name].astype(np.float64)


def summed(base: Path, tensors: dict[str, np.ndarray], module: str, scale: float) -> np.ndarray:
    a, b = (tensors[f"base_model.model.{module}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    return (tensor(base, f"{module}.weight") + scale * b @ a).astype(np.float32)


def test_it_is_its_base_model_with_the_product_added_in_float32(base: Path, tmp_path: Path) -> None:
    """To a base in bfloat16, whose other tensors stay as they are."""
    tensors = factors(base, Q, DOWN, OUT)
    directory = write(tmp_path / "adapter", base, tensors)
    config = read_config(directory)
    assert config == read_config(base)
    with_adapter, base_params = by_name(load_params(directory, config)), by_name(load_params(base, config))
    np.testing.assert_array_equal(
        with_adapter["layers/attention/q"][1].reshape(24, 48), summed(base, tensors, Q, 2.0).T
    )
    np.testing.assert_array_equal(with_adapter["layers/mlp/down"][0], summed(base, tensors, DOWN, 2.0).T)
    np.testing.assert_array_equal(
        with_adapter["layers/attention/o"][2].reshape(48, 24), summed(base, tensors, OUT, 2.0).T
    )
    adapted = {"layers/attention/q": 1, "layers/mlp/down": 0, "layers/attention/o": 2}
    for name in base_params:
        others = (
            [layer for layer in range(3) if adapted.get(name) != layer] if name.startswith("layers") else slice(None)
        )
        np.testing.assert_array_equal(
            with_adapter[name][np.array(others)] if name in adapted else with_adapter[name],
            base_params[name][np.array(others)] if name in adapted else base_params[name],
            err_msg=name,
        )


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({"use_rslora": True}, 10 / R**0.5),
        ({"lora_alpha": "absent"}, 8 / R),
        ({"lora_alpha": 7, "alpha_pattern": {"layers.1.self_attn.q_proj": 20.5}}, 20.5 / R),
        ({"r": 3, "rank_pattern": {r"layers\.\d+\.self_attn\.q_proj": R}}, 10 / R),
        ({"alpha_pattern": {"proj": 20}, "init_lora_weights": "gaussian", "qalora_group_size": 16}, 10 / R),
    ],
    ids=["rslora", "default alpha", "alpha pattern", "rank pattern", "a pattern of part of a name"],
)
def test_its_scale_is_what_peft_makes_of_its_settings(
    changes: dict[str, Any], scale: float, base: Path, tmp_path: Path
) -> None:
    tensors = factors(base, Q)
    files = adapter.open_files(write(tmp_path / "adapter", base, tensors, **changes))
    np.testing.assert_array_equal(
        files.read(f"{Q}.weight", (slice(7, 40), slice(None))), summed(base, tensors, Q, scale)[7:40]
    )
    assert files.dtype(f"{Q}.weight") == np.float32 and files.dtype(f"{DOWN}.weight") == ml_dtypes.bfloat16


def test_no_bit_depends_on_the_devices(base: Path, tmp_path: Path) -> None:
    directory = write(tmp_path / "adapter", base, factors(base, Q, DOWN, OUT, dtype=ml_dtypes.bfloat16))
    config = read_config(directory)
    from cprec_jax.model.decoder import Decoder

    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    spread = load_params(directory, config, param_shardings(mesh, *abstract_params(Decoder(config))))
    for name, leaf in by_name(load_params(directory, config)).items():
        np.testing.assert_array_equal(np.asarray(by_name(spread)[name]), leaf, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, r"adapter_config.json: use_dora True \(DoRA\) is not supported"),
        ({"bias": "all"}, r"bias 'all' \(trained biases\) is not supported"),
        ({"lora_bias": True}, r"lora_bias True \(biases of the adapter\) is not supported"),
        (
            {"modules_to_save": ["lm_head"]},
            r"modules_to_save \['lm_head'\] \(modules that were trained whole\) is not supported",
        ),
        ({"peft_type": "LOHA"}, r"peft_type 'LOHA' is not supported"),
        ({"fan_in_fan_out": True}, r"fan_in_fan_out True is not supported"),
        ({"layer_replication": [[0, 2], [1, 3]]}, r"layer_replication .* is not supported"),
        ({"something_new": 3}, r"something_new 3 is not supported"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights 'pissa' changes the base model's weights"),
        ({"task_type": "SEQ_CLS"}, r"task_type 'SEQ_CLS' is not supported"),
        (
            {"r": 6},
            r"the adapter of model.layers.1.self_attn.q_proj has rank 5 \(A\) and 5 \(B\), and 6 by "
            r"adapter_config.json",
        ),
        ({"lora_alpha": "ten"}, r"lora_alpha = 'ten' has the wrong type"),
        ({"lora_alpha": None}, r"lora_alpha is missing"),
        ({"lora_alpha": 0}, r"lora_alpha = 0.0 must be above 0"),
        ({"rank_pattern": ["q_proj"]}, r"rank_pattern = \['q_proj'\] has the wrong type"),
        ({"revision": 3}, r"revision = 3 has the wrong type"),
        ({"base_model_name_or_path": None}, r"names no base_model_name_or_path"),
        ({"base_model_name_or_path": "./not/there"}, r"no such directory"),
    ],
)
def test_what_is_more_or_less_than_lora_is_refused_by_name(
    changes: dict[str, Any], message: str, base: Path, tmp_path: Path
) -> None:
    directory = write(tmp_path / "adapter", base, factors(base, Q), **changes)
    with pytest.raises(UserError, match=message) as caught:
        check_model(directory)
    assert len(str(caught.value).splitlines()) == 1


def test_tensors_without_a_place_are_refused(base: Path, tmp_path: Path) -> None:
    good = factors(base, Q)
    a, b = good.values()
    module = "base_model.model.model.layers.1.self_attn.q_proj"
    cases = {
        "magnitude": (
            {**good, f"{module}.lora_magnitude_vector.weight": a},
            r"lora_magnitude_vector.weight is not LoRA on a linear layer",
        ),
        "half": ({f"{module}.lora_A.weight": a}, r"holds only one of A and B of model.layers.1.self_attn.q_proj"),
        "layer": (
            {name.replace("layers.1", "layers.9"): value for name, value in good.items()},
            r"has not: model.layers.9.self_attn.q_proj",
        ),
        "shape": (
            {f"{module}.lora_A.weight": a[:, :-1].copy(), f"{module}.lora_B.weight": b},
            r"as \(48, 23\), which is \(48, 24\) in ",
        ),
        "prefix": (
            {name.removeprefix("base_model."): value for name, value in good.items()},
            r"is not LoRA on a linear layer",
        ),
        "name": (
            {name.replace(".lora_", ".default.lora_"): value for name, value in good.items()},
            r"has not: .*q_proj.default.weight",
        ),
        "tied": (
            factors(base, "model.embed_tokens"),
            r"adapts model.embed_tokens.weight, and head and embedding are one .* \(tied\)",
        ),
    }
    for name, (tensors, message) in cases.items():
        with pytest.raises(UserError, match=message):
            check_model(write(tmp_path / name, base, tensors))


def test_what_else_may_lie_in_its_directory(base: Path, tmp_path: Path) -> None:
    directory = write(tmp_path / "adapter", base, factors(base, Q))
    with pytest.raises(UserError, match=r"its base model .*adapter is an adapter itself"):
        check_model(write(tmp_path / "second", directory, factors(base, Q)))
    (directory / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    with pytest.raises(
        UserError, match=r"holds both an adapter \(adapter_config.json\) and a model \(model.safetensors\)"
    ):
        check_model(directory)
    (directory / "model.safetensors").unlink()
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(UserError, match=r"has only adapter_model\.bin"):
        check_model(directory)
    (directory / "adapter_model.bin").unlink()
    with pytest.raises(UserError, match=r"adapter_model.safetensors: not found; an adapter needs it"):
        check_model(directory)
