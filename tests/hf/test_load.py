import json
import shutil

import ml_dtypes  # noqa: F401
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cprec_jax.errors import UserError
from cprec_jax.hf.checkpoint_files import CheckpointFiles
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.hf.save import save
from tests.model.tiny import tiny


@pytest.fixture
def directory(tmp_path):
    decoder, params = tiny()
    save(tmp_path / "model", params, decoder.config, None, "card")
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path):
    decoder, params = tiny()
    save(tmp_path / "model", params, decoder.config, None, "card", shard_bytes=20_000)
    return tmp_path / "model"


def rewrite(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def refused(directory, message):
    with pytest.raises(UserError, match=message) as caught:
        load_params(directory, read_config(directory))
    assert "\n" not in str(caught.value)


def test_missing_tensors(directory):
    rewrite(directory, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    refused(directory, r"lacks: model\.layers\.1\.mlp\.up_proj\.weight")


def test_unmapped_tensors(directory):
    rewrite(directory, lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": np.zeros(32, np.float32)}))
    refused(directory, r"no place for: model\.layers\.0\.self_attn\.o_proj\.bias")


def test_more_layers_than_the_config_says(directory):
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**raw, "num_hidden_layers": 2}))
    refused(directory, r"no place for: model\.layers\.2\.input_layernorm\.weight.*and 4 more")


def test_wrong_shapes(directory):
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**raw, "intermediate_size": 40}))
    refused(directory, r"mlp\.gate_proj\.weight has shape \(48, 32\), config\.json says \(40, 32\)")


def test_integer_tensors(directory):
    rewrite(directory, lambda t: t.update({"model.norm.weight": np.ones(32, np.int32)}))
    refused(directory, "model.norm.weight is I32")


def test_rotary_buffers_of_old_checkpoints_are_no_parameters(directory):
    rewrite(directory, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}))
    load_params(directory, read_config(directory))


@pytest.mark.parametrize("keep", [100, 0.5, 0.999])
def test_truncated_file(directory, keep):
    path = directory / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    refused(directory, r"model\.safetensors: damaged or truncated")


def test_header_that_names_a_tensor_twice(directory):
    path = directory / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    entry = json.dumps({**header["model.norm.weight"], "shape": [2, 16]})
    text = f'{json.dumps(header)[:-1]}, "model.norm.weight": {entry}}}'.encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    refused(directory, r"model\.safetensors: damaged or truncated \(duplicate keys model\.norm\.weight\)")


def test_only_a_pickle(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    refused(directory, r"only pytorch_model\.bin \(a pickle")


def test_no_weights_no_directory_no_config(directory, tmp_path):
    (directory / "model.safetensors").unlink()
    refused(directory, "has neither model.safetensors nor")
    (directory / "config.json").unlink()
    refused(directory, r"config\.json: not found")
    refused(tmp_path / "absent", "not found")


def test_damaged_config(directory):
    (directory / "config.json").write_text('{"model_type": "llama", "model_type": "qwen2"}')
    refused(directory, "duplicate keys model_type")
    (directory / "config.json").write_text('{"model_type": ')
    refused(directory, "cannot be read")


def test_index_with_an_absent_shard(sharded):
    next(sharded.glob("model-00002-*")).unlink()
    refused(sharded, r"model-00002-of-.*not found, but the index names it")


def test_index_that_disagrees_with_its_files(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = "model.norm.weight"
    first = next(file for file in sorted(set(index["weight_map"].values())) if file != index["weight_map"][name])
    path.write_text(json.dumps({**index, "weight_map": {**index["weight_map"], name: first}}))
    refused(sharded, f"disagree about {name}")
    del index["weight_map"][name]
    path.write_text(json.dumps(index))
    refused(sharded, f"disagree about {name}")
    path.write_text(json.dumps({"weight_map": {name: "../elsewhere.safetensors"}}))
    refused(sharded, "outside its directory")
    path.write_text(json.dumps({"weight_map": {name: ["model-00001-of-00002.safetensors"], "b": 5}}))
    refused(sharded, r"outside its directory: 5, \['model-00001")


def test_one_tensor_in_two_files(sharded):
    first, second = sorted(sharded.glob("model-0000[12]-*"))
    tensors = load_file(first)
    save_file(
        {**load_file(second), next(iter(tensors)): next(iter(tensors.values()))}, second, metadata={"format": "pt"}
    )
    refused(sharded, "that another file of the checkpoint holds, too")


def test_tied_checkpoint_that_stores_both(directory):
    rewrite(directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    config = read_config(directory)
    assert config.tied_tensor == "both"
    load_params(directory, config)
    rewrite(directory, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    refused(directory, "tie_word_embeddings is true, but")


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model": {"vocab": {"a": 0, "b": 64}}},
        {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 64, "content": "<x>"}]},
        {"model": {"vocab": [["a", 0.0]] * 65}},
    ],
)
def test_tokenizer_larger_than_the_embedding(directory, tokenizer):
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(directory, "has 65 tokens, the embedding only 64 rows")


def test_tokenizer_smaller_than_the_embedding_is_fine(directory):
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 63}}}))
    load_params(directory, read_config(directory))


def test_a_leftover_index_beside_a_single_file(directory, sharded_shards, capsys):
    """transformers reads model.safetensors where there are both; the shards hold other weights here."""
    expected = load_file(directory / "model.safetensors")["model.norm.weight"]
    for file in sharded_shards.glob("model*"):
        shutil.copyfile(file, directory / file.name)
    params = load_params(directory, read_config(directory))
    np.testing.assert_array_equal(params["final_norm"], expected)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "model.safetensors is read" in lines[0] and "model.safetensors.index.json" in lines[0]


@pytest.fixture
def sharded_shards(tmp_path):
    decoder, params = tiny()
    save(
        tmp_path / "old",
        {**params, "final_norm": params["final_norm"] + 1},
        decoder.config,
        None,
        "card",
        shard_bytes=20_000,
    )
    return tmp_path / "old"


def test_an_adapter_beside_a_model_is_refused(directory):
    """Alone it is read with its base (tests/hf/test_adapter.py), but nowhere as the files of a whole model."""
    (directory / "adapter_config.json").write_text("{}")
    (directory / "adapter_model.safetensors").write_bytes(b"")
    refused(
        directory, r"holds both an adapter \(adapter_config.json\) and a model \(model.safetensors\); give one of them"
    )
    with pytest.raises(
        UserError, match=r"adapter_config\.json: a PEFT adapter, where the files of a whole model are wanted"
    ):
        CheckpointFiles(directory)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_few_tokens_beyond_the_embedding_are_named_with_both_ways_out(directory, count):
    added = [{"id": 64 + number, "content": f"<extra-{number}>"} for number in range(count)]
    (directory / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {"a": 0, "b": 63}}, "added_tokens": added})
    )
    with pytest.raises(UserError) as caught:
        load_params(directory, read_config(directory))
    for token in added:
        assert (f"{token['content']!r} (id {token['id']})" in str(caught.value)) == (count < 9)
    assert ("take it out of" in str(caught.value) and "config.text.new_tokens" in str(caught.value)) == (count < 9)
    load_params(directory, read_config(directory), named=[token["content"] for token in added])
