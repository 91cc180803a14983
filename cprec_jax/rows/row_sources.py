"""What rows are made from, apart from general text: sequences of items, a window at a time, each under the header of
its scope.

`Behaviour` is what users did. The others are made only where a mixture asks for them, and hold no user's behaviour:
`Titles` (bare titles), `Related` (lists of titles alike), `Shuffled` (the users' sequences with the items dealt out
anew). Each draws from a generator of its own, so that none changes what another one holds.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cprec_jax.corpus import Corpus, TrainSplit
from cprec_jax.rows.shuffled_source import deal
from cprec_jax.text import ragged
from cprec_jax.text.title_neighbours import neighbour_lists

Scope = str | None  # of a header: a domain's name, or None for all domains
BARE = ""  # the scope of documents without a header
FEWEST_RELATED, MOST_RELATED = 2, 50  # titles per list


@dataclass(frozen=True, kw_only=True)
class Window:
    """Sequences under one header: sequence i is `items[offsets[i]:offsets[i + 1]]`."""

    scope: Scope
    items: np.ndarray
    offsets: np.ndarray


class RowSource(Protocol):
    """A source of sequences.

    Attributes:
      unit: what a sequence is, in the plural.
      total: how many there are, for the display of progress.
      scopes: of all its windows.
      counts: what the manifest says of it, once `windows` has run through.
    """

    @property
    def unit(self) -> str: ...
    @property
    def total(self) -> int: ...
    @property
    def scopes(self) -> Sequence[Scope]: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    def windows(self) -> Iterator[Window]: ...


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """The training sequences of one file of the corpus. window: interactions that are held at a time.

    users: the share of them that is taken, chosen by `seed`; a smaller share is part of a larger one.
    """

    corpus: Corpus
    split: TrainSplit
    name: str
    scope: Scope
    window: int
    users: float = 1.0
    seed: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    unit: str = "users"

    @property
    def total(self) -> int:
        n = self.corpus.n_sequences(self.split, self.name)
        return n if self.users == 1 else math.ceil(self.users * n)

    @property
    def scopes(self) -> Sequence[Scope]:
        return (self.scope,)

    def windows(self) -> Iterator[Window]:
        n = self.corpus.n_sequences(self.split, self.name)
        chosen = np.random.default_rng(_seed(self.seed, "users", self.name)).permutation(n) < self.total
        first = 0
        for items, offsets in self.corpus.windows(self.split, self.name, self.window):
            taken = np.flatnonzero(chosen[first : first + len(offsets) - 1])
            first += len(offsets) - 1
            if len(taken) < len(offsets) - 1:
                items, offsets = ragged.gather(items, offsets, taken)
            yield Window(scope=self.scope, items=items, offsets=offsets)


class Titles:
    """Every different title of the corpus, of downstream catalogues, too: a document each, without header, users or
    order."""

    unit, scopes = "titles", (BARE,)

    def __init__(self, corpus: Corpus, window: int):
        items = _catalogue_items(corpus, corpus.sets)
        self._items, self._window = _first_of_each_title(corpus, items), window
        self.total = len(self._items)
        self.counts = {"items_of_the_same_title": len(items) - self.total}

    def windows(self) -> Iterator[Window]:
        for first in range(0, self.total, self._window):
            items = self._items[first : first + self._window]
            yield Window(scope=BARE, items=items, offsets=np.arange(len(items) + 1))


class Related:
    """For every different title of every catalogue a list: the title, then its nearest neighbours in the catalogue by
    TF-IDF.

    A list is as long as the mean training sequence of the domain, in items. A downstream catalogue takes the mean over
    the pre-training domains, so that nothing of its users enters. Lists end before titles that have nothing in common
    with the first.
    """

    unit = "lists"

    def __init__(self, corpus: Corpus, seed: int, window: int):
        self._corpus, self._seed, self._window = corpus, seed, window
        self._items = {name: _first_of_each_title(corpus, corpus.catalogue(name)) for name in corpus.sets}
        self.scopes = tuple(self._items)
        self.total = sum(map(len, self._items.values()))
        n_items = sum(len(corpus.catalogue(name)) for name in corpus.sets)
        self.counts = {"items_of_the_same_title": n_items - self.total, "titles_without_neighbour": 0}

    def windows(self) -> Iterator[Window]:
        for name, items in self._items.items():
            titles = [self._corpus.items.title[item] for item in items.tolist()]
            rng = np.random.default_rng(_seed(self._seed, "related", self._corpus.sets[name].domain_id))
            lists = neighbour_lists(titles, related_length(self._corpus, name), rng)
            for numbers, offsets in _windows_of(lists, self._window):
                self.counts["titles_without_neighbour"] += int(np.count_nonzero(np.diff(offsets) == 1))
                with_neighbour = np.diff(offsets) > 1
                lengths = np.diff(offsets)
                kept = numbers[np.repeat(with_neighbour, lengths)]
                ends = np.concatenate([[0], np.cumsum(lengths[with_neighbour])]).astype(np.int64)
                yield Window(scope=name, items=items[kept], offsets=ends)


class Shuffled:
    """The training sequences of the pre-training domains with their items dealt out over users: the control without
    behaviour.

    Within a window, and so within a domain, lengths and the number of times that each item occurs stay as they are.
    """

    unit = "users"

    def __init__(self, corpus: Corpus, seed: int, window: int):
        self._corpus, self._seed, self._window = corpus, seed, window
        self.scopes = tuple(name for name, info in corpus.sets.items() if info.role == "pretrain")
        self.total = sum(corpus.n_sequences("domain", name) for name in self.scopes)
        self.counts = {"repeats": 0}

    def windows(self) -> Iterator[Window]:
        for name in self.scopes:
            rng = np.random.default_rng(_seed(self._seed, "shuffled", self._corpus.sets[name].domain_id))
            for items, offsets in self._corpus.windows("domain", name, self._window):
                dealt, repeats = deal(items, offsets, rng)
                self.counts["repeats"] += repeats
                yield Window(scope=name, items=dealt, offsets=offsets)


def optional_source(name: str, corpus: Corpus, seed: int, window: int) -> RowSource:
    """One of `config.train.OPTIONAL_SOURCES`."""
    if name == "titles":
        return Titles(corpus, window)
    return Related(corpus, seed, window) if name == "related" else Shuffled(corpus, seed, window)


def source_generator(seed: int, name: str) -> np.random.Generator:
    """Of the pairing of an optional source's documents."""
    return np.random.default_rng(_seed(seed, name))


def related_length(corpus: Corpus, name: str) -> int:
    """Titles per list of related titles in a catalogue."""
    domains = (
        [name]
        if corpus.sets[name].role == "pretrain"
        else [domain for domain, info in corpus.sets.items() if info.role == "pretrain"]
    )
    interactions = int(corpus.items.train_count[_catalogue_items(corpus, domains)].sum())
    sequences = sum(corpus.n_sequences("domain", domain) for domain in domains)
    return min(max(round(interactions / max(sequences, 1)), FEWEST_RELATED), MOST_RELATED)


def _seed(seed: int, *parts: str | int) -> list[int]:
    return [seed, *(byte for part in parts for byte in (part.encode() if isinstance(part, str) else (part,)))]


def _catalogue_items(corpus: Corpus, names: Iterable[str]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *(corpus.catalogue(name) for name in names)])


def _first_of_each_title(corpus: Corpus, items: np.ndarray) -> np.ndarray:
    """The first item of each different title, in order."""
    titles = corpus.items.title
    first: dict[str, int] = {}
    for item in items.tolist():
        first.setdefault(titles[item], item)
    return np.fromiter(first.values(), np.int32, len(first))


def _windows_of(
    lists: Iterable[tuple[np.ndarray, np.ndarray]], interactions: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of lists joined until they hold at least `interactions`."""
    parts: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    for numbers, offsets in lists:
        parts.append(numbers)
        lengths.append(np.diff(offsets))
        if sum(map(len, parts)) >= interactions:
            yield np.concatenate(parts), np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
            parts, lengths = [], []
    if parts:
        yield np.concatenate(parts), np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
