"""Small catalogues as token arrays, prompts, and scores by brute force: one sequence a title, the whole head."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.model.decoder import Decoder, logits
from tests.model.tiny import hidden, one_segment

END = 63  # the end of an item in the tiny vocabulary of 64


def ragged(titles: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Titles as flat tokens and offsets; the end of the item is appended."""
    ended = [(*title, END) for title in titles]
    return np.array([t for title in ended for t in title], np.int32), np.cumsum([0, *map(len, ended)])


def random_titles(seed: int, count: int, tokens: int = 5, longest: int = 6) -> list[tuple[int, ...]]:
    """Titles that share many prefixes; some are prefixes of others, some occur twice."""
    rng = np.random.default_rng(seed)
    return [tuple(int(t) for t in rng.integers(0, tokens, rng.integers(1, longest + 1))) for _ in range(count)]


def prompts(seed: int, lengths: tuple[int, ...], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Random prompts, padded with random tokens, which nothing may see."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, END, (len(lengths), width)).astype(np.int32), np.array(lengths, np.int32)


def token_log_probs(
    decoder: Decoder, params: Any, prompt: np.ndarray, titles: list[tuple[int, ...]]
) -> list[np.ndarray]:
    """For each title float32[t, V]: log-softmax over the vocabulary at each of its steps. No cache, no trie."""
    longest = max(map(len, titles))
    rows = np.zeros((len(titles), -(-(len(prompt) + longest) // 20) * 20), np.int32)  # few widths: few are compiled
    for row, title in zip(rows, titles, strict=True):
        row[: len(prompt) + len(title)] = [*prompt, *title]
    x = hidden(decoder, params, one_segment(rows))
    scores = np.asarray(jax.nn.log_softmax(logits(params, decoder.config, jnp.asarray(x)), axis=-1))
    first = len(prompt) - 1
    return [scores[row, first : first + len(title)] for row, title in enumerate(titles)]


def by_brute_force(
    decoder: Decoder,
    params: Any,
    prompt: np.ndarray,
    titles: list[tuple[int, ...]],
    end: int | None = END,
    temperature: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """(log p under the rule `trie`, sum of log p of the tokens) of every title, float64[N] each. `end` None: titles
    have their own."""
    ended = titles if end is None else [(*title, end) for title in titles]
    children: dict[tuple[int, ...], set[int]] = {}
    for title in ended:
        for depth in range(len(title)):
            children.setdefault(title[:depth], set()).add(title[depth])
    trie, total = np.zeros(len(titles)), np.zeros(len(titles))
    for index, (title, log_p) in enumerate(zip(ended, token_log_probs(decoder, params, prompt, ended), strict=True)):
        for depth, token in enumerate(title):
            here = log_p[depth].astype(np.float64)
            total[index] += here[token]
            trie[index] += here[token] / temperature - np.logaddexp.reduce(
                here[sorted(children[title[:depth]])] / temperature
            )
        trie[index] -= np.log(ended.count(title))
    return trie, total
