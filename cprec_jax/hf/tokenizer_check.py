"""That `AutoTokenizer` of an exported directory gives, token by token, what the model was trained with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax.config.text import TemplateSpec
from cprec_jax.errors import UserError
from cprec_jax.progress import say
from cprec_jax.text import tokenizer_files
from cprec_jax.text.tokenizer import Tokenizer

# The class that takes tokenizer.json as it is, in transformers 4 and 5; most others build parts of their own and take
# only its vocabulary.
NEUTRAL_CLASS = "PreTrainedTokenizerFast"


@dataclass(frozen=True, kw_only=True)
class TokenizerCheck:
    """What an export must tokenise alike: the catalogue's titles, each with its end of item, and the header of every
    scope."""

    tokenizer: Tokenizer
    template: TemplateSpec
    titles: Sequence[str]
    scopes: Sequence[str]

    def titles_with_control_tokens(self) -> int:
        """Titles that hold the text of a control token: of these transformers must be asked with
        `split_special_tokens=True`."""
        control = self.tokenizer.control_tokens
        titles = [title for title in self.titles if any(text in title for text in control)]
        as_text = _split(*self.tokenizer.encode_items(titles, self.template.end_of_item))
        return sum(
            not np.array_equal(tokens, self.tokenizer.encode(title + self.template.end_of_item))
            for title, tokens in zip(titles, as_text, strict=True)
        )

    def run(self, directory: Path) -> None:
        """Compare; a class in tokenizer_config.json that makes other tokens of tokenizer.json is replaced, and a line
        says so.

        Raises `UserError` with the first text that differs, where no class gives the tokens of the training.
        """
        difference = self._difference(directory)
        if difference is None:
            return
        named = tokenizer_files.read_object(directory / tokenizer_files.SETTINGS).get("tokenizer_class")
        tokenizer_files.write_settings(directory, {"tokenizer_class": NEUTRAL_CLASS})
        again = self._difference(directory)
        if again is not None:
            raise UserError(
                f"export: AutoTokenizer makes other tokens than the training had, {again}; transformers reads a "
                "tokenizer of this "
                "model_type its own way: train with the base model's tokenizer"
            )
        say(
            f"export: the class {named} of transformers makes other tokens of this tokenizer.json, {difference}; the "
            "export names "
            f"{NEUTRAL_CLASS}, which takes it as it is"
        )

    def _difference(self, directory: Path) -> str | None:
        """The first text that transformers tokenises otherwise, in words."""
        exported = tokenizer_files.transformers_tokenizer(directory)
        if exported.bos_token_id != self.tokenizer.bos_id:
            return f"BOS is {exported.bos_token_id} there and {self.tokenizer.bos_id} here"
        for scope in self.scopes:
            header = self.template.header.format(scope=scope)
            if exported.encode(header, add_special_tokens=False) != self.tokenizer.encode(header).tolist():
                return _example(
                    header, exported.encode(header, add_special_tokens=False), self.tokenizer.encode(header).tolist()
                )
        end = self.template.end_of_item
        encoded = _split(*self.tokenizer.encode_items(self.titles, end))
        texts = [title + end for title in self.titles]
        plain = exported(texts, add_special_tokens=False)["input_ids"] if texts else []
        for title, wanted, got in zip(self.titles, encoded, plain, strict=True):
            if got != wanted.tolist() and _as_text(exported, self.tokenizer, title, end) != wanted.tolist():
                return _example(title + end, got, wanted.tolist())
        return None


def _as_text(exported: Any, tokenizer: Tokenizer, title: str, end: str) -> list[int]:
    """A title whose control tokens are text, and an end of item whose control tokens are control tokens."""
    before, control = tokenizer.split_at_control_token(end)
    tokens = exported.encode(title + before, add_special_tokens=False, split_special_tokens=True)
    return tokens + (exported.encode(control, add_special_tokens=False) if control else [])


def _split(tokens: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    return np.split(tokens, offsets[1:-1]) if len(offsets) > 1 else []


def _example(text: str, exported: list[int], trained: list[int]) -> str:
    return f"for example {exported[:8]} instead of {trained[:8]} of {text[:40]!r}"
