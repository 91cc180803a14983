"""Titles of a catalogue after a prompt, with their probabilities: all of them exactly, or the best by a beam."""

from typing import Any

import jax
import numpy as np

from cprec_jax.inference.finite import check_finite
from cprec_jax.inference.padding import pad
from cprec_jax.inference.trie.exact import encode_for_trie, to_device, trie_log_probs
from cprec_jax.inference.trie.index import build_index
from cprec_jax.inference.trie.search import UNKNOWN, search
from cprec_jax.inference.trie.trie import build_trie
from cprec_jax.model.decoder import Decoder
from cprec_jax.text.catalogue import Catalogue

_rank = jax.jit(trie_log_probs, static_argnums=0)
_encode = jax.jit(encode_for_trie, static_argnums=0)


class TitleRanker:
    """The distribution over a catalogue's N titles under the rule `trie`. beam: None, or how many nodes are visited
    per level."""

    def __init__(self, decoder: Decoder, params: Any, catalogue: Catalogue, temperature: float, beam: int | None):
        self._decoder, self._params, self._temperature, self._beam = decoder, params, temperature, beam
        trie = build_trie(catalogue.tokens, catalogue.offsets)
        self._device_trie = to_device(trie) if beam is None else None
        self._index = None if beam is None else build_index(trie)

    def log_probs(self, tokens: np.ndarray, best: int, wanted: list[int]) -> np.ndarray:
        """float64[N]. By a beam: the `best` best titles it reaches and the `wanted` ones exactly, -inf for all others.
        Scores that are not finite are a `UserError`: next to NaN every title ranks first."""
        padded = pad([tokens])
        if self._index is None:
            log_probs_1N = np.asarray(
                _rank(self._decoder, self._params, self._device_trie, *padded, np.float32(self._temperature))
            )
            check_finite(log_probs_1N, "generate")
            return log_probs_1N[0].astype(np.float64)
        cache = _encode(self._decoder, self._params, *padded)
        columns = np.array([wanted], np.int64).reshape(1, -1)
        reached = search(
            self._decoder,
            self._params,
            self._index,
            cache,
            columns,
            np.array([best]),
            beam=self._beam,
            temperature=self._temperature,
        ).log_probs[0]
        return np.where(reached == UNKNOWN, -np.inf, reached)
