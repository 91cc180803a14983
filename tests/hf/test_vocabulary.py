"""Rows for new tokens: spare ones first, then growth to a multiple of 128; both start from the mean of the real
rows."""

import jax
import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.hf.load import read_config
from cprec_jax.hf.save import save
from cprec_jax.hf.vocabulary import load_with_room, with_room
from cprec_jax.model.decoder import Decoder, abstract_params
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.parallel.rules import param_shardings
from tests.model.tiny import tiny, tiny_config


@pytest.mark.parametrize(
    ("base_size", "size", "rows"), [(64, 64, 64), (60, 64, 64), (64, 65, 128), (60, 128, 128), (60, 129, 256)]
)
def test_rows(base_size, size, rows):
    assert with_room(tiny_config(), base_size, size, "DIR").vocab_size == rows


def test_a_table_too_small_for_its_own_tokenizer():
    with pytest.raises(
        UserError, match=r"has 65 tokens, but the embedding of DIR has 64 rows; use the tokenizer of that model"
    ):
        with_room(tiny_config(), 65, 70, "DIR")


@pytest.mark.parametrize(
    "changes", [{}, {"tie_embeddings": False}, {"tied_tensor": "lm_head"}], ids=["tied", "untied", "head only"]
)
@pytest.mark.parametrize(
    ("base_size", "size"), [(60, 62), (60, 70), (64, 64)], ids=["spare rows", "growth", "none new"]
)
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_new_rows_are_the_mean_of_the_real_ones(tmp_path, changes, base_size, size, sharded):
    decoder, params = tiny(**changes)
    save(tmp_path / "base", params, decoder.config, None, "card")
    config = with_room(read_config(tmp_path / "base"), base_size, size, "DIR")
    shardings = param_shardings(make_mesh(2, 2, 2), *abstract_params(Decoder(config))) if sharded else None
    loaded = load_with_room(tmp_path / "base", config, base_size, size, shardings)
    for name in [name for name in ("embed", "lm_head") if name in params]:
        old, new = np.asarray(params[name]), np.asarray(loaded[name])
        assert new.shape == (config.vocab_size, 32)
        if sharded:
            assert loaded[name].sharding == shardings[name]
        fresh = np.zeros(len(new), bool)
        fresh[base_size:size] = True
        fresh[64:] = True
        np.testing.assert_array_equal(new[~fresh], old[~fresh[:64]])
        np.testing.assert_allclose(new[fresh], np.broadcast_to(old[:base_size].mean(0), new[fresh].shape), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, loaded["layers"], params["layers"])


def test_a_token_beyond_the_table_gets_a_row_when_it_is_named(tmp_path):
    """A tokenizer with one token more than its model has rows: refused by its name, or given a row when named."""
    decoder, params = tiny()
    save(tmp_path / "base", params, decoder.config, None, "card")
    ids = {f"t{index}": index for index in range(64)} | {"<pad>": 64, "<new>": 65}
    with pytest.raises(
        UserError,
        match=r"DIR has 64 rows.*'<pad>' \(id 64\) lies beyond them.*tokenizer\.json.*config\.text\.new_tokens",
    ):
        with_room(tiny_config(), 65, 66, "DIR", ids)
    config = with_room(tiny_config(), 65, 66, "DIR", ids, ("<pad>", "<new>"))
    assert config.vocab_size == 128
    loaded = load_with_room(tmp_path / "base", config, 65, 66, named=("<pad>", "<new>"))
    mean = np.asarray(params["embed"]).mean(0)
    np.testing.assert_array_equal(loaded["embed"][:64], params["embed"])
    np.testing.assert_allclose(loaded["embed"][64:66], np.broadcast_to(mean, (2, 32)), atol=1e-6)
