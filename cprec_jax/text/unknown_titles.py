"""Titles that a tokenizer cannot read at all."""

import numpy as np

from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.tokenizer import Tokenizer


def titles_unknown(catalogue: Catalogue, items: np.ndarray, tokenizer: Tokenizer, end_of_item: str) -> int:
    """How many of the items (ascending numbers) are nothing but unknown tokens, blanks and the end of item."""
    if tokenizer.unknown_id is None or not catalogue.unknown_tokens:
        return 0
    tokens, offsets = catalogue.gather(items)
    nothing = [tokenizer.unknown_id, *tokenizer.encode(" "), *tokenizer.encode(end_of_item)]
    n_known = np.concatenate([[0], np.cumsum(~np.isin(tokens, nothing))])
    unknown = np.concatenate([[0], np.cumsum(tokens == tokenizer.unknown_id)])
    return int(np.count_nonzero((np.diff(n_known[offsets]) == 0) & (np.diff(unknown[offsets]) > 0)))
