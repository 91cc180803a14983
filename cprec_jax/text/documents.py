"""Behavioural sequences cut into documents that fit a row, as ragged lists of catalogue items; vectorised over all
users."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cprec_jax.text.catalogue import Catalogue


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Documents as pieces of `piece_table`: `pieces` int32[total], `offsets` int64[n + 1] of each document's, `lengths`
    int64[n] tokens."""

    pieces: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    dropped_items: int

    def __len__(self) -> int:
        return len(self.lengths)


def piece_table(catalogue: Catalogue, headers: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Flat tokens and offsets of all pieces: first the catalogue's items, then the headers."""
    header_ends = catalogue.offsets[-1] + np.cumsum([len(h) for h in headers])
    return np.concatenate([catalogue.tokens, *headers]), np.concatenate([catalogue.offsets, header_ends]).astype(
        np.int64
    )


def cut(
    items: np.ndarray,
    offsets: np.ndarray,
    header_of: np.ndarray,
    headers: Sequence[np.ndarray],
    catalogue: Catalogue,
    capacity: int,
) -> Documents:
    """Cut every sequence into consecutive documents of at most `capacity` tokens, each beginning with its header.

    Args:
      items, offsets: ragged sequences, oldest item first.
      header_of: int[n], which of `headers` a sequence begins with.
      headers: token arrays.
      capacity: tokens per row. An item that does not fit a row even alone is left out and counted in `dropped_items`.
    """
    lengths = catalogue.lengths[items]
    ends = np.zeros(len(items) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    room = capacity - np.array([len(h) for h in headers], np.int64)[header_of]
    start, stop = offsets[:-1].copy(), offsets[1:]
    active = np.flatnonzero(start < stop)
    parts_of: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    dropped = 0
    while len(active):
        s = start[active]
        e = np.minimum(np.searchsorted(ends, ends[s] + room[active], side="right") - 1, stop[active])
        fits = e > s
        parts_of.append((active[fits], s[fits], e[fits]))
        dropped += int(np.count_nonzero(~fits))
        start[active] = np.where(fits, e, s + 1)
        active = active[start[active] < stop[active]]
    sequence, s, e = (
        (np.concatenate(parts) if parts_of else np.zeros(0, np.int64) for parts in zip(*parts_of, strict=True))
        if parts_of
        else (np.zeros(0, np.int64),) * 3
    )
    return _documents(items, sequence, s, e, ends, header_of, headers, catalogue, dropped)


def prefixes(
    items: np.ndarray,
    offsets: np.ndarray,
    header_of: np.ndarray,
    headers: Sequence[np.ndarray],
    catalogue: Catalogue,
    capacity: int,
) -> Documents:
    """For every item but the first of its sequence a document: the header, the items before it, the item. Arguments are
    those of `cut`.

    A document of more than `capacity` tokens loses its oldest items. An item that does not fit with at least one before
    it is left out.
    """
    ends = np.zeros(len(items) + 1, np.int64)
    np.cumsum(catalogue.lengths[items], out=ends[1:])
    sequence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    target = np.flatnonzero(np.arange(len(items)) > offsets[sequence])
    sequence = sequence[target]
    room = capacity - np.array([len(h) for h in headers], np.int64)[header_of[sequence]]
    first = np.maximum(np.searchsorted(ends, ends[target + 1] - room), offsets[sequence])
    fits = first < target
    chosen = sequence[fits], first[fits], target[fits] + 1
    return _documents(items, *chosen, ends, header_of, headers, catalogue, int(np.count_nonzero(~fits)))


def _documents(
    items: np.ndarray,
    sequence: np.ndarray,
    s: np.ndarray,
    e: np.ndarray,
    ends: np.ndarray,
    header_of: np.ndarray,
    headers: Sequence[np.ndarray],
    catalogue: Catalogue,
    dropped: int,
) -> Documents:
    """Document d: the header of `sequence[d]`, then `items[s[d]:e[d]]`; `ends`: tokens of all items before each."""
    count = e - s
    document_offsets = np.zeros(len(s) + 1, np.int64)
    np.cumsum(count + 1, out=document_offsets[1:])
    pieces = np.empty(document_offsets[-1], np.int32)
    is_header = np.zeros(len(pieces), bool)
    is_header[document_offsets[:-1]] = True
    pieces[is_header] = len(catalogue) + header_of[sequence]
    pieces[~is_header] = items[np.arange(count.sum()) + np.repeat(s - (np.cumsum(count) - count), count)]
    return Documents(
        pieces=pieces,
        offsets=document_offsets,
        lengths=ends[e] - ends[s] + np.array([len(h) for h in headers], np.int64)[header_of[sequence]],
        dropped_items=dropped,
    )
