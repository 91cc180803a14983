"""Whether a tokenizer fits the embedding of a model: a token id beyond its rows would be clamped to the last one without an error."""

from collections.abc import Collection, Mapping

from cprec_jax.errors import UserError

FEW = 4  # so many tokens too many are named; more mean that tokenizer and model do not belong together


def check_fit(ids: Mapping[str, int], rows: int, tokenizer: str, model: str | None = None, named: Collection[str] = ()) -> None:
    """That every token has a row of the embedding. `named` are those of `config.text.new_tokens`, which get new rows.

    Args:
      ids: token -> id, added tokens included.
      rows: of the embedding.
      tokenizer, model: what the message calls them; the model is left out where the tokenizer's path names it.

    Raises `UserError`; where only a few tokens are too many, it names them and both ways out.
    """
    beyond = sorted((index, text) for text, index in ids.items() if index >= rows and text not in named)
    if not beyond:
        return
    message = f"{tokenizer} has {max(ids.values()) + 1} tokens, " + (
        f"the embedding only {rows} rows" if model is None else f"but the embedding of {model} has {rows} rows"
    )
    if len(beyond) > FEW:
        raise UserError(f"{message}; use the tokenizer of that model")
    tokens = ", ".join(f"{text!r} (id {index})" for index, text in beyond)
    raise UserError(
        f"{message}; use the tokenizer of that model: {tokens} lies beyond them, so take it out of tokenizer.json and "
        "tokenizer_config.json, or name it in config.text.new_tokens, so that training gives it a row"
    )
