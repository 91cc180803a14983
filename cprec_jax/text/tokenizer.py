"""The tokenizer: a Hugging Face directory as it is, or a byte-level BPE trained on the corpus's own titles."""

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from cprec_jax.errors import UserError, one_line

END_OF_TEXT = "<|endoftext|>"
TEXTS_A_BATCH = 2_000  # an encoding takes many times the memory of its ids
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A fast tokenizer and the ids this project needs. Special tokens are never added by `encode`; the template adds BOS itself."""

    backend: tokenizers.Tokenizer
    directory: Path
    bos_id: int | None
    unknown_id: int | None

    @property
    def size(self) -> int:
        """One more than the largest token id, added tokens included (the embedding needs at least this many rows)."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self.backend.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_all(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode many texts on all cores. Returns flat `tokens` int32 and `offsets` int64[len(texts) + 1]."""

        def encode(first: int) -> tuple[np.ndarray, np.ndarray]:
            encodings = self.backend.encode_batch_fast(list(texts[first : first + TEXTS_A_BATCH]), add_special_tokens=False)
            ids = [encoding.ids for encoding in encodings]
            return np.fromiter(itertools.chain.from_iterable(ids), np.int32), np.fromiter(map(len, ids), np.int64)

        # Two threads, so that one batch is encoded (on all cores, outside Python) while the ids of another one are collected.
        with ThreadPoolExecutor(2) as threads:
            parts = list(threads.map(encode, range(0, len(texts), TEXTS_A_BATCH)))
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.concatenate([np.zeros(0, np.int64), *(lengths for _, lengths in parts)]), out=offsets[1:])
        return np.concatenate([np.zeros(0, np.int32), *(ids for ids, _ in parts)]), offsets

    def decode(self, ids: Iterable[int]) -> str:
        return self.backend.decode(list(map(int, ids)), skip_special_tokens=False)


def load(directory: Path) -> Tokenizer:
    """Load from a Hugging Face directory (`tokenizer.json`, or the slow files that `transformers` can convert). No remote code."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such tokenizer directory; set config.text.tokenizer to one, or to 'train'")
    try:
        if (directory / "tokenizer.json").exists():
            backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        elif (directory / "merges.txt").exists():  # GPT-2's own two files
            backend = tokenizers.Tokenizer(models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt")))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
        else:
            from transformers import AutoTokenizer

            backend = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False).backend_tokenizer
    except Exception as error:  # the libraries raise bare Exception and many others for broken files
        raise UserError(f"{directory}: not a usable tokenizer ({one_line(error)[:200]})") from error
    backend.no_padding()
    backend.no_truncation()
    settings = _settings(directory)

    def token_id(name: str) -> int | None:
        value = settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        return backend.token_to_id(text) if isinstance(text, str) else None

    return Tokenizer(backend=backend, directory=directory, bos_id=token_id("bos_token"), unknown_id=token_id("unk_token"))


def _settings(directory: Path) -> dict:
    path = directory / "tokenizer_config.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({one_line(error)})") from error


def train(texts: Sequence[str], weights: Sequence[int], vocab_size: int, directory: Path, across_words: bool = True) -> Tokenizer:
    """Train a byte-level BPE and write it as a Hugging Face directory.

    `weights[i]` is how often `texts[i]` occurs in the training sequences, so that what is read often becomes few tokens. With
    `across_words` merges may span spaces and the end of a line ("superword" BPE, as in arXiv 2503.13423): a frequent title becomes a
    single token, which makes sequences several times shorter and costs nothing in generality, since bytes remain the fallback.
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


def copy_files(source: Path, target: Path) -> None:
    """Copy the tokenizer's files of one Hugging Face directory to another."""
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
