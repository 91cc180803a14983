"""The tokenizer: a Hugging Face directory as it is, or a byte-level BPE trained on the corpus's own titles."""

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from cprec_jax.errors import UserError, one_line
from cprec_jax.text import tokenizer_files

END_OF_TEXT = "<|endoftext|>"
TEXTS_PER_BATCH = 2_000  # an encoding takes many times the memory of its ids


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A fast tokenizer and the ids this project needs. Special tokens are never added by `encode`; the template adds
    BOS itself.

    A control token (one that the tokenizer marks as special, such as `<|endoftext|>`) written in a template or a prompt
    is that token. Written in a title or a document, which other people wrote, it is text: transformers'
    `split_special_tokens=True`. `unknown_id` is the token that the vocabulary puts where it has none; None where bytes
    or nothing take its place.
    """

    backend: tokenizers.Tokenizer
    directory: Path
    bos_id: int | None
    unknown_id: int | None

    @property
    def size(self) -> int:
        """One more than the largest token id, added tokens included (the embedding needs at least this many rows)."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> np.ndarray:
        """The tokens int32[n] of a template's or a prompt's text."""
        return np.asarray(self.backend.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_all(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode many documents or titles on all cores. Returns flat `tokens` int32 and `offsets` int64[len(texts) +
        1]."""
        with self._control_tokens_as_text():
            return self._encode_batch(texts)

    def encode_items(self, titles: Sequence[str], end_of_item: str) -> tuple[np.ndarray, np.ndarray]:
        """`encode_all` of titles with the template's `end_of_item` after each, which alone may hold control tokens."""
        before, control = self.split_at_control_token(end_of_item)
        tokens, offsets = self.encode_all([title + before for title in titles])
        if not control:
            return tokens, offsets
        # Control tokens are cut out of a text before anything else is done with it, so what is before one can be
        # encoded alone.
        end = self.encode(control)
        ends = np.tile(end, len(titles))
        return np.insert(tokens, np.repeat(offsets[1:], len(end)), ends), offsets + len(end) * np.arange(
            len(titles) + 1
        )

    def decode(self, ids: Iterable[int]) -> str:
        return self.backend.decode(list(map(int, ids)), skip_special_tokens=False)

    def _encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        def encode(first: int) -> tuple[np.ndarray, np.ndarray]:
            encodings = self.backend.encode_batch_fast(
                list(texts[first : first + TEXTS_PER_BATCH]), add_special_tokens=False
            )
            ids = [encoding.ids for encoding in encodings]
            return np.fromiter(itertools.chain.from_iterable(ids), np.int32), np.fromiter(map(len, ids), np.int64)

        # Two threads, so that one batch is encoded (on all cores, outside Python) while the ids of another one are
        # collected.
        with ThreadPoolExecutor(2) as threads:
            parts = list(threads.map(encode, range(0, len(texts), TEXTS_PER_BATCH)))
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.concatenate([np.zeros(0, np.int64), *(lengths for _, lengths in parts)]), out=offsets[1:])
        return np.concatenate([np.zeros(0, np.int32), *(ids for ids, _ in parts)]), offsets

    @contextlib.contextmanager
    def _control_tokens_as_text(self) -> Iterator[None]:
        self.backend.encode_special_tokens = True
        try:
            yield
        finally:
            self.backend.encode_special_tokens = False

    @property
    def control_tokens(self) -> list[str]:
        """The texts of the tokens that the tokenizer marks as special."""
        return [token.content for token in self.backend.get_added_tokens_decoder().values() if token.special]

    def split_at_control_token(self, text: str) -> tuple[str, str]:
        """`text` before its first control token, and from there on (empty where it has none)."""
        starts = [text.find(token) for token in self.control_tokens if token in text]
        start = min(starts, default=len(text))
        return text[:start], text[start:]


def load(directory: Path) -> Tokenizer:
    """Load from a Hugging Face directory: `tokenizer.json`, or whatever files `AutoTokenizer` reads instead. No remote
    code."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such tokenizer directory; set config.text.tokenizer to one, or to 'train'")
    try:
        if (directory / tokenizer_files.WHOLE).exists():
            backend = tokenizers.Tokenizer.from_file(str(directory / tokenizer_files.WHOLE))
        else:
            backend = tokenizer_files.transformers_tokenizer(directory).backend_tokenizer
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception for broken files
        raise UserError(f"{directory}: not a usable tokenizer ({one_line(error)[:200]})") from error
    if not (tokens := backend.get_vocab(with_added_tokens=True)):
        raise UserError(f"{directory}: not a usable tokenizer (it has no token); get the tokenizer again")
    if (directory / tokenizer_files.WHOLE).exists():
        tokenizer_files.check_settings(directory, tokens)
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = False
    bos = tokenizer_files.special_tokens(directory, ("bos_token",))["bos_token"]
    bos_id = None if bos is None else backend.token_to_id(bos)
    return Tokenizer(backend=backend, directory=directory, bos_id=bos_id, unknown_id=_unknown_id(backend))


def _unknown_id(backend: tokenizers.Tokenizer) -> int | None:
    if isinstance(backend.model, models.Unigram):  # which keeps it to itself
        return json.loads(backend.to_str())["model"].get("unk_id")
    text = getattr(backend.model, "unk_token", None)
    return None if text is None else backend.token_to_id(text)


def train(
    texts: Sequence[str], weights: Sequence[int], vocab_size: int, directory: Path, across_words: bool = True
) -> Tokenizer:
    """Train a byte-level BPE and write it as a Hugging Face directory.

    `weights[i]` is how often `texts[i]` occurs in the training sequences, so that what is read often becomes few
    tokens. With `across_words` merges may span spaces and the end of a line ("superword" BPE, as in arXiv 2503.13423):
    a frequent title becomes a single token, which makes sequences several times shorter and costs nothing in
    generality, since bytes remain the fallback.
    """
    if vocab_size < 257 + 16:
        raise UserError(f"config.text.vocab_size: {vocab_size} is too small; a byte-level BPE needs at least 273")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_words)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def weighted() -> Iterator[list[str]]:
        for text, weight in zip(texts, weights, strict=True):
            if weight > 0:
                yield [text] * int(weight)

    backend.train_from_iterator(weighted(), trainer)
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return load(directory)
