"""The tokens of all titles of the corpus, saved beside the rows that were packed with the same tokenizer.

The file is a cache: whoever finds it missing, damaged, or made of other titles or another tokenizer encodes anew.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from cprec_jax.artefact import file_sha256, fingerprint
from cprec_jax.errors import UserError
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.tokenizer import Tokenizer
from cprec_jax.text.tokenizer_files import input_files

FILE = "catalogue.npz"
COUNTS = ("unknown_tokens", "confused_titles", "distinct_titles")


def build_and_save(
    directory: Path, tokenizer: Tokenizer, titles: Sequence[str], end_of_item: str, needed: np.ndarray
) -> Catalogue:
    """`Catalogue.build` for the `needed` items (ascending numbers), of all titles encoded once and saved in
    `directory`.

    Where the tokenizer is unfit for titles that are not needed, nothing is saved: whoever ranks them hears of it.
    """
    try:
        catalogue = Catalogue.build(tokenizer, titles, end_of_item)
    except UserError:
        return Catalogue.build(tokenizer, titles, end_of_item, needed)
    columns: dict[str, Any] = {"tokens": catalogue.tokens, "offsets": catalogue.offsets}
    columns |= {name: getattr(catalogue, name) for name in COUNTS}
    np.savez(directory / FILE, made_of=np.array(_made_of(tokenizer, titles, end_of_item)), **columns)
    return catalogue.restrict(tokenizer, titles, needed)


def load_or_build(
    directory: Path, tokenizer: Tokenizer, titles: Sequence[str], end_of_item: str, needed: np.ndarray | None = None
) -> Catalogue:
    """What `Catalogue.build` gives, from the file in `directory` where it is of these titles and this tokenizer."""
    catalogue = _load(directory, _made_of(tokenizer, titles, end_of_item), len(titles))
    if catalogue is None:
        return Catalogue.build(tokenizer, titles, end_of_item, needed)
    return catalogue if needed is None else catalogue.restrict(tokenizer, titles, needed)


def _load(directory: Path, made_of: str, n_items: int) -> Catalogue | None:
    try:
        with np.load(directory / FILE, allow_pickle=False) as arrays:
            if str(arrays["made_of"]) != made_of:
                return None
            tokens, offsets = arrays["tokens"], arrays["offsets"]
            unknown, confused, distinct = (int(arrays[name]) for name in COUNTS)
    except Exception:  # zipfile and numpy raise many kinds for damaged files
        return None
    if offsets.shape != (n_items + 1,) or int(offsets[-1]) != len(tokens):
        return None
    return Catalogue(
        tokens=tokens,
        offsets=offsets,
        unknown_tokens=unknown,
        confused_titles=confused,
        distinct_titles=distinct,
    )


def _made_of(tokenizer: Tokenizer, titles: Sequence[str], end_of_item: str) -> str:
    """SHA-256 over all that decides the tokens: the tokenizer's files, the version of its library, and the texts."""
    files = {path.name: file_sha256(path) for path in input_files(tokenizer.directory)}
    return fingerprint([files, tokenizers.__version__, end_of_item, list(titles)])
