"""Every family against transformers: logits, loss gradients, greedy text, and the way back."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.hf import keys
from cprec_jax.hf.load import load_params, read_config, source_dtype
from cprec_jax.hf.save import save
from cprec_jax.model.decoder import Decoder, logits
from cprec_jax.train.objectives.cpt import Cpt
from tests.hf.families import FAMILIES, checkpoint, torch_model, torch_run
from tests.hf.test_save import assert_same_tensors
from tests.model.tiny import one_segment, packed

pytestmark = pytest.mark.torch

T = 40  # beyond the original context of the scaled variants, and beyond every window


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """(transformers model, directory, our config, our params)"""
    pytest.importorskip("torch")
    directory = checkpoint(request.param, tmp_path_factory.mktemp("checkpoints") / request.param)
    config = read_config(directory)
    return torch_model(request.param), directory, config, load_params(directory, config)


@functools.partial(jax.jit, static_argnums=0)
def forward(config, params, inputs):
    return logits(params, config, Decoder(config).apply({"params": params}, *inputs))


@functools.partial(jax.jit, static_argnums=0)
def loss_gradients(config, params, inputs):
    def loss(params):
        log_probs = jax.nn.log_softmax(forward(config, params, inputs)[:, :-1])
        return -jnp.take_along_axis(log_probs, inputs[0][:, 1:, None], -1).mean()

    return jax.grad(loss)(params)


def test_logits_and_gradients(family):
    model, _, config, params = family
    tokens = np.random.default_rng(0).integers(0, 96, size=(2, T))
    expected, expected_gradients = torch_run(model, tokens)
    np.testing.assert_allclose(forward(config, params, one_segment(tokens)), expected, atol=1e-4)

    assert_same_gradients(config, loss_gradients(config, params, one_segment(tokens)), expected_gradients)


@pytest.mark.parametrize("first_target", [6, 31], ids=["all", "last"])
def test_the_loss_of_a_fine_tuning_row_is_theirs_token_by_token(family, first_target):
    """A header and items, with a loss on all items, or on the last alone: their labels are -100 where there is none."""
    import torch

    model, _, config, params = family
    tokens = np.random.default_rng(3).integers(0, 96, size=(1, T))
    labels = torch.tensor(np.where(np.arange(T) >= first_target, tokens, -100))
    model.zero_grad()
    theirs = model(torch.tensor(tokens), labels=labels).loss
    theirs.backward()
    expected = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}

    objective = Cpt(decoder=Decoder(config), loss_chunk=8)
    batch = dict(zip(("tokens", "positions"), one_segment(tokens)[:2], strict=True))
    batch |= {
        "segment_ids": jnp.ones((1, T), jnp.int32),
        "loss_mask": jnp.array(np.arange(T)[None] >= first_target, jnp.float32),
    }

    def loss(params):
        return objective.sums(params, batch, None)["token_nll"] / objective.weights(batch)["token_nll"]

    ours, gradients = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)
    assert_same_gradients(config, gradients, expected)
    assert distance(config, gradients, expected) <= 1e-5, (
        "of the whole gradient; a single bias is a difference of larger numbers"
    )


def distance(config, gradients, expected):
    """The norm of the difference of all gradients, relative to theirs."""
    difference = total = 0.0
    for tensor in keys.tensors(config):
        ours = functools.reduce(lambda tree, key: tree[key], tensor.path, gradients)
        ours = tensor.layout.to_hf(np.asarray(ours if tensor.layer is None else ours[tensor.layer]))
        difference += np.square(ours - expected[tensor.name]).sum()
        total += np.square(expected[tensor.name]).sum()
    return np.sqrt(difference / total)


def assert_same_gradients(config, gradients, expected):
    """Within 1e-4 of the largest of each tensor; every tensor of theirs is compared."""
    compared = set()
    for tensor in keys.tensors(config):
        ours = functools.reduce(lambda tree, key: tree[key], tensor.path, gradients)
        ours = tensor.layout.to_hf(np.asarray(ours if tensor.layer is None else ours[tensor.layer]))
        theirs = expected[tensor.name]
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), tensor.name
        compared.add(tensor.name)
    assert compared == set(expected)


def test_packed_documents_equal_theirs_one_by_one(family):
    import torch

    model, _, config, params = family
    rng = np.random.default_rng(1)
    docs = [rng.integers(0, 96, size=n) for n in (17, 3, 20)]
    ours = forward(config, params, packed([docs], T))
    with torch.no_grad():
        theirs = np.concatenate([model(torch.tensor(document)[None]).logits[0].numpy() for document in docs])
    np.testing.assert_allclose(ours[0], theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["llama3-scaled", "llama-linear", "gemma3"])
def test_positions_beyond_the_context_under_scaling(name, tmp_path):
    import torch

    directory = checkpoint(name, tmp_path)
    config = read_config(directory)
    assert config.rope_scaling is not None and config.max_position_embeddings == 64
    tokens = np.random.default_rng(4).integers(0, 96, size=(1, 150))
    with torch.no_grad():
        theirs = torch_model(name)(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(forward(config, load_params(directory, config), one_segment(tokens)), theirs, atol=1e-4)


@pytest.mark.parametrize("stored", ["embed_tokens", "lm_head", "both"])
def test_each_way_to_store_a_tied_head(stored, tmp_path):
    import torch
    from safetensors.numpy import load_file, save_file
    from transformers import AutoModelForCausalLM

    directory = checkpoint("smollm2", tmp_path / "in")
    expected = load_params(directory, read_config(directory))
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    if stored != "both":
        tensors.pop({"embed_tokens": "lm_head.weight", "lm_head": "model.embed_tokens.weight"}[stored])
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = read_config(directory)
    assert config.tied_tensor == stored
    params = load_params(directory, config)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    save(tmp_path / "out", params, config, None, "card")
    assert_same_tensors(directory, tmp_path / "out")
    tokens = torch.tensor(np.random.default_rng(5).integers(0, 96, size=(1, 9)))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    with torch.no_grad():
        np.testing.assert_array_equal(again(tokens).logits.numpy(), torch_model("smollm2")(tokens).logits.numpy())


def test_greedy_text_token_for_token(family):
    import torch

    model, _, config, params = family
    tokens = np.zeros((1, T), np.int64)
    tokens[0, :4] = [5, 17, 60, 33]
    for t in range(4, 12):
        tokens[0, t] = int(jnp.argmax(forward(config, params, one_segment(tokens))[0, t - 1]))
    theirs = model.generate(torch.tensor(tokens[:, :4]), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    banned = {2}  # min_new_tokens bans the end token there
    assert not banned & set(tokens[0, 4:12].tolist()), "choose another prompt"
    np.testing.assert_array_equal(tokens[0, :12], theirs[0].numpy())


def test_export_of_an_import_is_bit_identical_and_loads_there(family, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    model, directory, config, params = family
    save(tmp_path / "out", params, config, None, "card")
    assert_same_tensors(directory, tmp_path / "out")
    again, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokens = torch.tensor(np.random.default_rng(3).integers(0, 96, size=(1, T)))
    with torch.no_grad():
        np.testing.assert_array_equal(again(tokens).logits.numpy(), model(tokens).logits.numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_round_trip_is_bit_identical(dtype, tmp_path):
    directory = checkpoint("qwen3", tmp_path / "in", dtype)
    config = read_config(directory)
    assert source_dtype(directory) == dtype
    save(tmp_path / "out", load_params(directory, config), config, None, "card", dtype=dtype)
    assert_same_tensors(directory, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype


def test_old_spelling_of_rope_gives_the_same_model(tmp_path):
    directory = checkpoint("llama3-scaled", tmp_path / "in")
    config = read_config(directory)
    raw = json.loads((directory / "config.json").read_text())
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    raw["rope_scaling"] = rope
    (directory / "config.json").write_text(json.dumps(raw))
    assert read_config(directory) == config
    assert config.rope_theta == 1000.0 and config.rope_scaling is not None
