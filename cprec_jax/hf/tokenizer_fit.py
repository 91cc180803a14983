"""Whether a tokenizer fits the embedding of a model: a token id beyond its rows would be clamped to the last one
without an error."""

from collections.abc import Collection, Mapping
from pathlib import Path

from cprec_jax.errors import UserError
from cprec_jax.hf.checkpoint_files import read_json
from cprec_jax.hf.config import parse_config
from cprec_jax.text import tokenizer

FEW = 4  # so many tokens too many are named; more mean that tokenizer and model do not belong together


def check_fit(
    ids: Mapping[str, int], rows: int, who: str, model: str | None = None, named: Collection[str] = ()
) -> None:
    """That every token has a row of the embedding. `named` are those of `config.text.new_tokens`, which get new rows.

    Args:
      ids: token -> id, added tokens included.
      rows: of the embedding.
      who, model: what the message calls the tokenizer and the model; the model is left out where the tokenizer's path
        names it.

    Raises `UserError`; where only a few tokens are too many, it names them and both ways out.
    """
    beyond = sorted((index, text) for text, index in ids.items() if index >= rows and text not in named)
    if not beyond:
        return
    message = f"{who} has {max(ids.values()) + 1} tokens, " + (
        f"the embedding only {rows} rows" if model is None else f"but the embedding of {model} has {rows} rows"
    )
    if len(beyond) > FEW:
        raise UserError(f"{message}; use the tokenizer of that model")
    tokens = ", ".join(f"{text!r} (id {index})" for index, text in beyond)
    raise UserError(
        f"{message}; use the tokenizer of that model: {tokens} lies beyond them, so take it out of tokenizer.json and "
        "tokenizer_config.json, or name it in config.text.new_tokens, so that training gives it a row"
    )


def check_pair(tokenizer_dir: Path, model_dir: Path, named: Collection[str] = ()) -> None:
    """That the tokenizer of `config.text` fits the base model of `config.model`, before anything is made of either.

    named: `config.text.new_tokens`, written out. Raises `UserError`, also where one of them cannot be read.
    """
    rows = parse_config(read_json(model_dir / "config.json"), str(model_dir / "config.json")).vocab_size
    check_fit(
        tokenizer.load(tokenizer_dir).backend.get_vocab(with_added_tokens=True),
        rows,
        str(tokenizer_dir),
        str(model_dir),
        named,
    )
