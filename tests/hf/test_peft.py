"""Adapters against real PEFT, both ways. "It loads" proves nothing there: keys are counted, and logits compared."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.config.lora import LoraSpec
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.hf.save_adapter import BaseModel, save_adapter
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, abstract_params, logits
from cprec_jax.model.lora import is_adapter, merged
from cprec_jax.train.leaves import by_name, merge, split
from cprec_jax.train.lora import adapters_of
from tests.hf.families import checkpoint, torch_model
from tests.model.tiny import one_segment

pytestmark = pytest.mark.torch

NAMES = ("smollm2", "llama-untied-biased", "qwen2", "qwen3", "gemma3")
TOKENS = np.random.default_rng(0).integers(0, 96, size=(2, 40))
SPEC = LoraSpec(rank=5, alpha=3.5)


@functools.partial(jax.jit, static_argnums=0)
def forward(decoder: Decoder, params: Any, inputs: Any) -> jax.Array:
    return logits(params, decoder.config, decoder.apply({"params": params}, *inputs))


def torch_logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def adapted(config: DecoderConfig, base: Any, spec: LoraSpec = SPEC) -> tuple[Decoder, Any]:
    """A decoder with adapters that have been trained, so to speak, on the parameters `base`."""
    decoder = Decoder(config, adapters=adapters_of(spec, config))
    shapes = abstract_params(decoder)[0]
    adapter, _ = split(shapes, [name for name in by_name(shapes) if not is_adapter(name)])
    rng = np.random.default_rng(1)
    return decoder, merge(
        base, jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32), adapter)
    )


@pytest.mark.parametrize("name", NAMES)
def test_peft_loads_what_is_exported_and_computes_the_same(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    directory = checkpoint(name, tmp_path / "base")
    config = read_config(directory)
    spec = LoraSpec(
        rank=5,
        alpha=3.5,
        rslora=name == "qwen3",
        targets=("layers/mlp/*", "layers/*/[ov]") if name == "qwen2" else ("layers/*",),
    )
    decoder, params = adapted(config, load_params(directory, config), spec)
    assert decoder.adapters is not None
    out = tmp_path / "adapter"
    save_adapter(
        out, params, config, decoder.adapters.weights, spec, BaseModel(name=str(directory)), None, "# Adapter\n"
    )

    model = peft.PeftModel.from_pretrained(torch_model(name), out)
    loaded = model.load_adapter(out, adapter_name="again")
    assert loaded.missing_keys == [] and loaded.unexpected_keys == []
    assert len(peft.get_peft_model_state_dict(model)) == 2 * 3 * len(decoder.adapters.weights)
    ours = forward(decoder, params, one_segment(TOKENS))
    np.testing.assert_allclose(ours, torch_logits(model), atol=1e-4)
    assert np.abs(torch_logits(model) - torch_logits(torch_model(name))).max() > 0.1
    full = merged(params, spec.scale)
    np.testing.assert_allclose(
        forward(Decoder(config), full, one_segment(TOKENS)), torch_logits(model.merge_and_unload()), atol=1e-4
    )

    written = json.loads((out / "adapter_config.json").read_text())
    known = peft.LoraConfig(r=1).to_dict()
    assert set(written) <= set(known), "no setting that PEFT does not know"
    back = load_params(out, read_config(out))
    for leaf, value in by_name(back).items():
        np.testing.assert_allclose(value, by_name(full)[leaf], atol=1e-6, err_msg=leaf)


@pytest.mark.parametrize("name", NAMES)
def test_what_peft_saves_is_read_as_it_computes(name: str, tmp_path: Path) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    import transformers

    directory = checkpoint(name, tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    patterns = {
        "rank_pattern": {"q_proj": 3, r"layers\.1\.mlp\.down_proj": 7},
        "alpha_pattern": {"o_proj": 11, "layers.2.mlp.up_proj": 2},
    }
    settings = peft.LoraConfig(r=5, lora_alpha=9, use_rslora=name == "gemma3", target_modules="all-linear", **patterns)
    peft_model = peft.get_peft_model(model, settings).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in peft_model.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    peft_model.save_pretrained(tmp_path / "adapter")
    config = read_config(tmp_path / "adapter")
    values = forward(Decoder(config), load_params(tmp_path / "adapter", config), one_segment(TOKENS))
    np.testing.assert_allclose(values, torch_logits(peft_model), atol=1e-4)
    assert np.abs(torch_logits(peft_model) - torch_logits(torch_model(name))).max() > 0.1
