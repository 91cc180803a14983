import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.hf.checkpoint_files import CheckpointFiles
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.hf.save import save, special_token_ids
from cprec_jax.model.decoder import abstract_params
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.parallel.rules import param_shardings
from tests.model.tiny import tiny

VARIANTS = {
    "tied": {},
    "untied": {"tie_embeddings": False},
    "head only": {"tied_tensor": "lm_head"},
    "both": {"tied_tensor": "both"},
    "gemma3": {
        "model_type": "gemma3_text",
        "qk_norm": "head",
        "norm_placement": "both",
        "norm_plus_one": True,
        "scale_embeddings": True,
        "activation": "gelu_tanh",
        "query_scalar": 8.0,
        "sliding_window": 4,
        "sliding_layers": (True, False, True),
        "local_rope_theta": 100.0,
    },
}


def assert_same_tensors(one, two):
    a, b = CheckpointFiles(one), CheckpointFiles(two)
    assert a.names == b.names
    for name in a.names:
        assert a.dtype(name) == b.dtype(name)
        everything = (slice(None),) * len(a.shape(name))
        assert a.read(name, everything).tobytes() == b.read(name, everything).tobytes(), name


@pytest.mark.parametrize("name", VARIANTS)
def test_there_and_back(tmp_path, name):
    decoder, params = tiny(**VARIANTS[name])
    save(tmp_path / "one", params, decoder.config, None, "# A card\n")
    config = read_config(tmp_path / "one")
    assert config == decoder.config
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path / "one", config), params)
    assert (tmp_path / "one" / "README.md").read_text() == "# A card\n"
    assert not list(tmp_path.glob(".*"))


def test_shards_with_an_index_hold_the_same(tmp_path):
    decoder, params = tiny()
    save(tmp_path / "one", params, decoder.config, None, "card")
    save(tmp_path / "many", params, decoder.config, None, "card", shard_bytes=20_000)
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all((tmp_path / "many" / file).stat().st_size < 22_000 for file in files)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert_same_tensors(tmp_path / "one", tmp_path / "many")
    assert not (tmp_path / "one" / "model.safetensors.index.json").exists()


def test_sharded_parameters_are_gathered(tmp_path):
    decoder, params = tiny()
    save(tmp_path / "one", params, decoder.config, None, "card")
    shardings = param_shardings(make_mesh(2, 2, 2), *abstract_params(decoder))
    save(tmp_path / "two", jax.device_put(params, shardings), decoder.config, None, "card")
    assert_same_tensors(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(("dtype", "kind"), [("bfloat16", jnp.bfloat16), ("float16", jnp.float16)])
def test_dtype(tmp_path, dtype, kind):
    decoder, params = tiny()
    save(tmp_path / "out", params, decoder.config, None, "card", dtype=dtype)
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["dtype"] == raw["torch_dtype"] == dtype
    loaded = load_params(tmp_path / "out", read_config(tmp_path / "out"))
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, np.asarray(b).astype(kind).astype(np.float32)), loaded, params
    )


def test_what_cannot_be_saved_leaves_nothing(tmp_path):
    decoder, params = tiny()
    huge = {**params, "final_norm": params["final_norm"] * 1e6}
    with pytest.raises(UserError, match=r"model\.norm\.weight has values that are not finite in float16"):
        save(tmp_path / "out", huge, decoder.config, None, "card", dtype="float16")
    with pytest.raises(UserError, match="'int8' is unknown"):
        save(tmp_path / "out", params, decoder.config, None, "card", dtype="int8")
    with pytest.raises(UserError, match=r"do not fit the model config: \['embed'\]"):
        save(tmp_path / "out", {**params, "embed": params["embed"][:-1]}, decoder.config, None, "card")
    assert not list(tmp_path.iterdir())


def test_a_previous_export_is_replaced_whole(tmp_path):
    decoder, params = tiny()
    save(tmp_path / "out", params, decoder.config, None, "old", shard_bytes=20_000)
    save(tmp_path / "out", params, decoder.config, None, "new")
    assert (tmp_path / "out" / "README.md").read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors*")) == ["model.safetensors"]


def test_tokenizer_files_and_token_ids(tmp_path):
    source = tmp_path / "tokenizer"
    source.mkdir()
    (source / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {"a": 5}}, "added_tokens": [{"content": "<e>", "id": 7}]})
    )
    (source / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<e>"}, "bos_token": "a", "pad_token": None})
    )
    (source / "weights.bin").write_text("not copied")
    assert special_token_ids(source) == {"bos_token_id": 5, "eos_token_id": 7}
    decoder, params = tiny()
    save(tmp_path / "out", params, decoder.config, source, "card")
    for file in ("config.json", "generation_config.json"):
        raw = json.loads((tmp_path / "out" / file).read_text())
        assert (raw["bos_token_id"], raw["eos_token_id"]) == (5, 7)
    assert not (tmp_path / "out" / "weights.bin").exists()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
