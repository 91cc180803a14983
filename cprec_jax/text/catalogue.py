"""Every title tokenised once; sequences, prompts and the title trie are all concatenations of these tokens."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cprec_jax.errors import UserError
from cprec_jax.text import ragged
from cprec_jax.text.tokenizer import Tokenizer

MOST_CONFUSED = 0.5  # a ranking in which most titles are another's, too, says nothing


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Tokens of all items: item i is `tokens[offsets[i]:offsets[i + 1]]`, its end of item included.

    Title and end-of-item text are encoded TOGETHER. Since no title holds the end-of-item text, no item's text is a
    prefix of another's, so no token array is a strict prefix of another either. A tokenizer that drops or replaces
    characters could break that, so `build` looks at the tokens: every item ends with its end of item, no item is a
    prefix of another, and most titles are told apart. `confused_titles` of `distinct_titles` texts have the same tokens
    as another text; `unknown_tokens` of all tokens are the unknown one.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    unknown_tokens: int
    confused_titles: int = 0
    distinct_titles: int = 0

    @classmethod
    def build(
        cls, tokenizer: Tokenizer, titles: Sequence[str], end_of_item: str, needed: np.ndarray | None = None
    ) -> "Catalogue":
        """Encode `titles` (cleaned: without the end-of-item text). Raises `UserError` when the tokenizer loses what
        tells items apart.

        `needed` (ascending item numbers; None: all) leaves the others without tokens.
        """
        numbers = np.arange(len(titles)) if needed is None else np.asarray(needed, np.int64)
        for index in numbers.tolist():
            if end_of_item in (title := titles[index]):
                raise UserError(
                    f"item {index}: title {title[:60]!r} holds the end-of-item text {end_of_item!r}; choose another "
                    "in config.text"
                )
        encoded = [titles[index] for index in numbers.tolist()]
        tokens, ends = tokenizer.encode_items(encoded, end_of_item)
        offsets = _offsets_of(numbers, np.diff(ends), len(titles))
        clash = cls(tokens=tokens, offsets=offsets, unknown_tokens=0)._strict_prefix(numbers)
        if clash is not None:
            a, b = clash
            raise UserError(
                f"the tokenizer makes item {a} ({titles[a][:40]!r}) a prefix of item {b} ({titles[b][:40]!r}): it "
                "loses the end of item "
                f"{end_of_item!r}; set config.text.template.end_of_item to text that it keeps"
            )
        _check_ends(tokenizer, encoded, end_of_item, tokens, ends)
        return cls._counted(tokenizer, encoded, tokens, ends, offsets)

    def restrict(self, tokenizer: Tokenizer, titles: Sequence[str], needed: np.ndarray) -> "Catalogue":
        """What `build` would give for these `needed` items alone, without encoding them again."""
        numbers = np.asarray(needed, np.int64)
        tokens, ends = self.gather(numbers)
        offsets = _offsets_of(numbers, np.diff(ends), len(titles))
        return self._counted(tokenizer, [titles[index] for index in numbers.tolist()], tokens, ends, offsets)

    @classmethod
    def _counted(
        cls, tokenizer: Tokenizer, encoded: Sequence[str], tokens: np.ndarray, ends: np.ndarray, offsets: np.ndarray
    ) -> "Catalogue":
        """With the counts of what the tokenizer loses of the titles `encoded`. Too much is a `UserError`."""
        unknown = 0 if tokenizer.unknown_id is None else int(np.count_nonzero(tokens == tokenizer.unknown_id))
        confused, distinct = _confused(encoded, tokens, ends)
        if confused > MOST_CONFUSED * distinct:
            raise UserError(
                f"the tokenizer makes the same tokens of different titles, in {confused} of {distinct} cases: it does "
                "not know their "
                "characters; set config.text.tokenizer to one that does, or to 'train'"
            )
        return cls(
            tokens=tokens, offsets=offsets, unknown_tokens=unknown, confused_titles=confused, distinct_titles=distinct
        )

    @property
    def losses(self) -> str:
        """What the tokenizer loses of the titles, in words, with its share; empty where it keeps them all apart and
        knows all of them."""
        parts = []
        if self.confused_titles:
            share = self.confused_titles / self.distinct_titles
            parts.append(
                f"{share:.2%} of the titles ({self.confused_titles}) have the same tokens as another title and tie "
                "with it"
            )
        if self.unknown_tokens:
            parts.append(
                f"{self.unknown_tokens / len(self.tokens):.2%} of the titles' tokens ({self.unknown_tokens}) are the "
                "unknown token"
            )
        return ", ".join(parts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per item, end of item included: int64[N]."""
        return np.diff(self.offsets)

    def item(self, index: int) -> np.ndarray:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def gather(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The concatenated tokens of `items`, and the offsets int64[len(items) + 1] of each."""
        return ragged.gather(self.tokens, self.offsets, np.asarray(items))

    def _strict_prefix(self, numbers: np.ndarray) -> tuple[int, int] | None:
        # Where a strict prefix ends, some item's last token stands inside another item: mostly there is no such place.
        if self.lengths[numbers].all():
            final = self.offsets[1:][self.lengths > 0] - 1
            is_last = np.zeros(int(self.tokens.max(initial=0)) + 1, bool)
            is_last[self.tokens[final]] = True
            if np.count_nonzero(is_last[self.tokens]) == len(final):
                return None
        # Big-endian bytes sort like the token arrays, and a strict prefix sorts directly before something it is a
        # prefix of.
        keys = self.tokens.astype(">u4").tobytes()
        bounds = self.offsets.tolist()
        order = sorted((keys[4 * bounds[i] : 4 * bounds[i + 1]], i) for i in numbers.tolist())
        for (a, i), (b, j) in itertools.pairwise(order):
            if len(a) < len(b) and b.startswith(a):
                return i, j
        return None


def _offsets_of(numbers: np.ndarray, lengths: np.ndarray, n_items: int) -> np.ndarray:
    """Offsets int64[n_items + 1] of a catalogue in which the items `numbers` have `lengths` tokens, all others none."""
    offsets = np.zeros(n_items + 1, np.int64)
    offsets[1:][numbers] = lengths
    return np.cumsum(offsets, out=offsets)


def _check_ends(
    tokenizer: Tokenizer, titles: Sequence[str], end_of_item: str, tokens: np.ndarray, ends: np.ndarray
) -> None:
    """That the end of item is among the tokens of every title, and not as the unknown token. Raises `UserError`."""
    if not len(titles):
        return
    lengths, last = np.diff(ends), tokens[np.maximum(ends[1:] - 1, 0)]
    unknown: list[int] = []
    if tokenizer.unknown_id is not None:
        unknown = np.flatnonzero((lengths > 0) & (last == tokenizer.unknown_id)).tolist()
    # A last token whose text ends as the end of item does is in order; all others are compared with the title alone.
    shown = {int(token): tokenizer.decode([token]).endswith(end_of_item[-1]) for token in np.unique(last)}
    doubtful = np.flatnonzero(
        [length == 0 or not shown[token] for length, token in zip(lengths.tolist(), last.tolist(), strict=True)]
    )
    alone, alone_ends = tokenizer.encode_all([titles[index] for index in doubtful.tolist()])
    lost = [
        index
        for number, index in enumerate(doubtful.tolist())
        if np.array_equal(alone[alone_ends[number] : alone_ends[number + 1]], tokens[ends[index] : ends[index + 1]])
    ]
    for indices, what in ((lost, "drops the end of item"), (unknown, "has only its unknown token for the end of item")):
        if len(indices):
            raise UserError(
                f"the tokenizer {what} {end_of_item!r} of {len(indices)} of {len(titles)} titles (such as "
                f"{titles[indices[0]][:40]!r}); "
                "set config.text.template.end_of_item to text that it keeps"
            )


def _confused(titles: Sequence[str], tokens: np.ndarray, ends: np.ndarray) -> tuple[int, int]:
    """How many different titles have the tokens of another one, and how many different titles there are."""
    by_tokens: dict[bytes, set[str]] = {}
    bounds = ends.tolist()
    for index, title in enumerate(titles):
        by_tokens.setdefault(tokens[bounds[index] : bounds[index + 1]].tobytes(), set()).add(title)
    return sum(len(same) for same in by_tokens.values() if len(same) > 1), sum(map(len, by_tokens.values()))
