"""Every title tokenised once; sequences, prompts and the title trie are all concatenations of these tokens."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cprec_jax.errors import UserError
from cprec_jax.text import ragged
from cprec_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Tokens of all items: item i is `tokens[offsets[i]:offsets[i + 1]]`, its end of item included.

    Title and end-of-item text are encoded TOGETHER. Since no title holds the end-of-item text, no item's text is a prefix of
    another's, so no token array is a strict prefix of another either; this is checked, because a tokenizer that maps characters to
    <unk> could break it.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    unknown_tokens: int

    @classmethod
    def build(cls, tokenizer: Tokenizer, titles: Sequence[str], end_of_item: str, needed: np.ndarray | None = None) -> "Catalogue":
        """Encode `titles` (cleaned: without the end-of-item text). Raises `UserError` when one item would be a prefix of another.

        `needed` (ascending item numbers; None: all) leaves the others without tokens.
        """
        numbers = range(len(titles)) if needed is None else needed.tolist()
        for index in numbers:
            if end_of_item in (title := titles[index]):
                raise UserError(
                    f"item {index}: title {title[:60]!r} holds the end-of-item text {end_of_item!r}; choose another in config.text"
                )
        tokens, ends = tokenizer.encode_all([titles[index] + end_of_item for index in numbers])
        offsets = np.zeros(len(titles) + 1, np.int64)
        offsets[1:][numbers] = np.diff(ends)
        np.cumsum(offsets, out=offsets)
        unknown = 0 if tokenizer.unknown_id is None else int(np.count_nonzero(tokens == tokenizer.unknown_id))
        catalogue = cls(tokens=tokens, offsets=offsets, unknown_tokens=unknown)
        clash = catalogue._strict_prefix(numbers)
        if clash is not None:
            a, b = clash
            raise UserError(
                f"the tokenizer makes item {a} ({titles[a][:40]!r}) a prefix of item {b} ({titles[b][:40]!r}): it loses the end of item "
                f"{end_of_item!r}; set config.text.template.end_of_item to text that it keeps"
            )
        return catalogue

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens an item, end of item included: int64[N]."""
        return np.diff(self.offsets)

    def item(self, index: int) -> np.ndarray:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def gather(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The concatenated tokens of `items`, and the offsets int64[len(items) + 1] of each."""
        return ragged.gather(self.tokens, self.offsets, np.asarray(items))

    def _strict_prefix(self, numbers: Sequence[int]) -> tuple[int, int] | None:
        # Where a strict prefix ends, some item's last token stands inside another item: mostly there is no such place.
        if self.lengths[np.asarray(numbers, np.int64)].all():
            final = self.offsets[1:][self.lengths > 0] - 1
            is_last = np.zeros(int(self.tokens.max(initial=0)) + 1, bool)
            is_last[self.tokens[final]] = True
            if np.count_nonzero(is_last[self.tokens]) == len(final):
                return None
        # Big-endian bytes sort like the token arrays, and a strict prefix sorts directly before something it is a prefix of.
        keys = self.tokens.astype(">u4").tobytes()
        bounds = self.offsets.tolist()
        order = sorted((keys[4 * bounds[i] : 4 * bounds[i + 1]], i) for i in numbers)
        for (a, i), (b, j) in itertools.pairwise(order):
            if len(a) < len(b) and b.startswith(a):
                return i, j
        return None
