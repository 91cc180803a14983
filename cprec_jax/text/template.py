"""The unified, purely textual template: one for pre-training, fine-tuning and evaluation.

The paper's own prompt words are not published; these are ours and sit in the config. A document is a header that names
the scope (a domain, or all domains) and one line per item:

    Items one user chose in Beauty, oldest first:
    Prada Candy Eau De Parfum
    Xtreme Brite Brightening Gel
"""

from dataclasses import dataclass

import numpy as np

from cprec_jax.config.text import TemplateSpec
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt's tokens int32[P] and how many of the oldest items did not fit."""

    tokens: np.ndarray
    dropped_items: int


class Template:
    """A `TemplateSpec` bound to a tokenizer."""

    def __init__(self, spec: TemplateSpec, tokenizer: Tokenizer):
        self.spec = spec
        self._tokenizer = tokenizer
        self._headers: dict[str, np.ndarray] = {}

    def header(self, scope: str | None) -> np.ndarray:
        """Header tokens int32[h] of a domain, or of the mixed sequences (None); begins with BOS where the tokenizer has
        one."""
        scope = self.spec.all_domains if scope is None else scope
        if scope not in self._headers:
            text = self._tokenizer.encode(self.spec.header.format(scope=scope))
            self._headers[scope] = np.concatenate([self.start, text])
        return self._headers[scope]

    @property
    def start(self) -> np.ndarray:
        """What a document without a header begins with, int32[0 or 1]: BOS where the tokenizer has one."""
        return np.asarray([] if self._tokenizer.bos_id is None else [self._tokenizer.bos_id], np.int32)

    def prompt(self, scope: str | None, items: np.ndarray, catalogue: Catalogue, max_tokens: int) -> Prompt:
        """Header and the most recent of `items` (int32[n], oldest first) that fit whole into `max_tokens`; the next
        item follows it."""
        header = self.header(scope)
        tokens, offsets = catalogue.gather(items)
        room = max_tokens - len(header)
        first = int(np.searchsorted(offsets, offsets[-1] - room)) if len(items) else 0
        first = min(first, len(items))
        return Prompt(tokens=np.concatenate([header, tokens[offsets[first] :]]), dropped_items=first)
