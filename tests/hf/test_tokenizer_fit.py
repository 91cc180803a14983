"""Whether tokenizer and base model belong together, asked before anything is made of either."""

import json
from pathlib import Path

import pytest

from cprec_jax.errors import UserError
from cprec_jax.hf.load import check_model
from cprec_jax.hf.save import save
from cprec_jax.hf.tokenizer_fit import check_pair
from cprec_jax.text import new_tokens, tokenizer
from tests.model.tiny import tiny


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A tokenizer of 280 tokens, and a model with just as many rows."""
    tokenizer.train(["the old man and the sea\n", "the old\n"] * 9, [1] * 18, 280, tmp_path / "words")
    size = tokenizer.load(tmp_path / "words").size
    decoder, params = tiny(vocab_size=size)
    save(tmp_path / "model", params, decoder.config, None, "card")
    return tmp_path / "words", tmp_path / "model"


def test_a_pair_that_fits(pair: tuple[Path, Path]) -> None:
    check_pair(*pair)
    check_model(pair[1])


def test_one_added_token_is_named_with_both_ways_out_which_both_work(pair: tuple[Path, Path]) -> None:
    tokenizer_dir, model = pair
    before = (tokenizer_dir / "tokenizer.json").read_bytes()
    _, added = new_tokens.add(tokenizer_dir, ["<pad>"])
    with pytest.raises(
        UserError,
        match=rf"'<pad>' \(id {added['<pad>']}\).*take it out of tokenizer\.json.*name it in config\.text\.new_tokens",
    ):
        check_pair(tokenizer_dir, model)
    check_pair(tokenizer_dir, model, ["<pad>"])
    (tokenizer_dir / "tokenizer.json").write_bytes(before)
    check_pair(tokenizer_dir, model)


def test_another_models_tokenizer(pair: tuple[Path, Path], tmp_path: Path) -> None:
    tokenizer.train(["a much larger one\n"] * 9, [1] * 9, 300, tmp_path / "other")
    new_tokens.add(tmp_path / "other", [f"<{number}>" for number in range(90)])
    with pytest.raises(UserError, match=r"use the tokenizer of that model$"):
        check_pair(tmp_path / "other", pair[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral' is not supported"),
        ({"num_hidden_layers": 9}, "lacks: model.layers"),
        ({"hidden_size": 64, "head_dim": 16}, "has shape"),
    ],
)
def test_a_model_is_judged_without_reading_a_tensor(pair: tuple[Path, Path], changes: dict, message: str) -> None:
    path = pair[1] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=message):
        check_model(pair[1])
