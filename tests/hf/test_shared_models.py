"""Real checkpoints: the fp32 ones reproduce the reference of transformers, and come back bit-identical."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.hf.load import load_params, read_config, source_dtype
from cprec_jax.hf.save import save
from cprec_jax.inference.generate import generate
from cprec_jax.model.decoder import Decoder, abstract_params, logits
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.parallel.rules import param_shardings
from cprec_jax.text import tokenizer
from tests.hf.families import torch_run
from tests.hf.test_parity import assert_same_gradients, forward, loss_gradients
from tests.hf.test_save import assert_same_tensors
from tests.model.tiny import hidden, one_segment, packed

NAMES = ["hf-tinystories-656k", "hf-stories260k"]


@pytest.mark.parametrize("name", NAMES)
def test_reference_logits_hidden_states_and_loss(shared_models, name):
    directory = shared_models / name
    config = read_config(directory)
    params = load_params(directory, config)
    reference = np.load(directory / "ref_logits.npz")
    inputs = one_segment(reference["input_ids"])
    x_BTD = hidden(Decoder(config), params, inputs)
    np.testing.assert_allclose(x_BTD, reference["hidden_last"], atol=1e-4)
    scores = logits(params, config, x_BTD)
    np.testing.assert_allclose(scores, reference["logits"], atol=1e-4)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(scores[:, :-1]), inputs[0][:, 1:, None], -1)
    np.testing.assert_allclose(losses.mean(), reference["loss"], atol=1e-5)

    document = reference["input_ids"][0]
    row = packed([[document[:9], document, document[3:]]], 3 * len(document))
    inside = hidden(Decoder(config), params, row)[:, 9 : 9 + len(document)]
    np.testing.assert_allclose(inside, reference["hidden_last"], atol=1e-4)


def test_bf16_upload_holds_the_same_weights(shared_models):
    """Both uploads tie the head and store it under different names; bf16 rounds to nearest."""
    wide, narrow = shared_models / NAMES[0], shared_models / f"{NAMES[0]}-bf16"
    configs = read_config(wide), read_config(narrow)
    assert [config.tied_tensor for config in configs] == ["lm_head", "embed_tokens"]
    assert (source_dtype(wide), source_dtype(narrow)) == ("float32", "bfloat16")
    ours, theirs = load_params(wide, configs[0]), load_params(narrow, configs[1])
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), ours)
    jax.tree.map(np.testing.assert_array_equal, rounded, theirs)


@pytest.mark.parametrize("name", [*NAMES, "hf-tinystories-656k-bf16"])
def test_export_of_an_import_is_bit_identical(shared_models, tmp_path, name):
    directory = shared_models / name
    config = read_config(directory)
    save(tmp_path / "out", load_params(directory, config), config, directory, "card", dtype=source_dtype(directory))
    assert read_config(tmp_path / "out") == config
    assert_same_tensors(directory, tmp_path / "out")
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (directory / file).read_bytes()


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_export_loads_in_transformers_with_the_same_logits(shared_models, tmp_path, name):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = shared_models / name
    config = read_config(directory)
    save(tmp_path / "out", load_params(directory, config), config, directory, "card")
    original, model = (
        AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
        for path in (directory, tmp_path / "out")
    )
    ours = dict(model.named_parameters())
    assert ours.keys() == dict(original.named_parameters()).keys()
    for key, weights in original.named_parameters():
        np.testing.assert_array_equal(ours[key].detach(), weights.detach(), err_msg=key)
    reference = np.load(directory / "ref_logits.npz")
    with torch.no_grad():
        scores = model(torch.tensor(reference["input_ids"])).logits.numpy()
    np.testing.assert_allclose(scores, reference["logits"], atol=1e-4)  # another processor adds up in another order
    old, new = (
        AutoTokenizer.from_pretrained(path)("Once upon a time").input_ids for path in (directory, tmp_path / "out")
    )
    assert old == new


@pytest.mark.torch
@pytest.mark.parametrize("name", [*NAMES, "hf-tinystories-656k-bf16"])
def test_logits_gradients_and_greedy_text_of_transformers(shared_models, name):
    """The bf16 upload, too: its weights are computed with in float32 on both sides."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    directory = shared_models / name
    config = read_config(directory)
    params = load_params(directory, config)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = np.load(shared_models / name.removesuffix("-bf16") / "ref_logits.npz")["input_ids"]
    expected, expected_gradients = torch_run(model, tokens)
    np.testing.assert_allclose(forward(config, params, one_segment(tokens)), expected, atol=1e-4)
    # of two tied parameters torch names the first
    named_as_theirs = dataclasses.replace(config, tied_tensor="embed_tokens")
    assert_same_gradients(named_as_theirs, loss_gradients(config, params, one_segment(tokens)), expected_gradients)

    prompt = tokenizer.load(directory).encode("Once upon a time, there was a little dog")
    (ours,) = generate(Decoder(config), params, [prompt], new_tokens=60, end_ids=(), batch=1)
    model.generation_config.eos_token_id = None  # on both sides
    theirs = model.generate(torch.tensor(prompt[None].astype(np.int64)), max_new_tokens=60, do_sample=False)[
        0, len(prompt) :
    ]
    assert len(set(ours)) > 20  # a story, not one word again and again
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_read_straight_into_shards(shared_models):
    directory = shared_models / NAMES[0]
    config = read_config(directory)
    shardings = param_shardings(make_mesh(2, 2, 2), *abstract_params(Decoder(config)))
    sharded, unsharded = load_params(directory, config, shardings), load_params(directory, config)
    jax.tree.map(np.testing.assert_array_equal, sharded, unsharded)
    jax.tree.map(
        lambda leaf, sharding: leaf.sharding == sharding or pytest.fail("another sharding"), sharded, shardings
    )
    assert sharded["layers"]["attention"]["o"].addressable_shards[0].data.shape == (2, 4, 16, 64)
