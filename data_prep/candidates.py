"""Candidate lists, drawn once for all models: the target and C - 1 negatives.

`uC` draws negatives uniformly from the set's catalogue, `pC` from items about as popular as the target, so that
popularity alone is close to chance. Negatives never are in the user's history and never have the target's title.

Everything random is a hash of (seed, split, set, protocol, user, ...), so a list depends on nothing else in the corpus.
The order in a list is by a hash of (user, protocol, item), which treats the target like any negative: no slot tells it
apart, also not for somebody who has seen the same user's list in another split (EVALUATION: lists in the wild leak the
target through their order).
"""

from collections.abc import Iterator

import numpy as np

from cprec_jax.corpus import hash60

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
CLASS_WIDTH = 5  # a popularity class holds at least this many times C items
ROUNDS = 4  # of drawing with rejection, before the exact way
CHUNK = 4_000_000  # numbers in flight


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): a good hash of uint64, elementwise."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(key: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) from a hash."""
    return (key >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_candidates(
    protocol: str,
    *,
    set_name: str,
    split: str,
    seed: int,
    user: np.ndarray,
    target: np.ndarray,
    offsets: np.ndarray,
    history: np.ndarray,
    train_count: np.ndarray,
    title_id: np.ndarray,
) -> np.ndarray:
    """Candidate lists [n, C] for n users, as positions in the set's catalogue of N items.

    user int64[n]; target int[n] and history int[total] (flat, cut by offsets int[n + 1]) are positions in the
    catalogue; train_count and title_id are [N]. Where some user has fewer than C - 1 possible negatives, all lists of
    the set are shortened to what that user has; width 1 (only the target) means that the protocol cannot be drawn.
    """
    n_items = len(train_count)
    size = int(protocol[1:])
    barred = _barred_pairs(target, offsets, history, title_id)
    left = n_items - np.bincount(barred // n_items, minlength=len(user))
    n_negatives = int(min(size - 1, left.min())) if len(user) else size - 1
    class_N = (
        _popularity_classes(train_count, CLASS_WIDTH * size) if protocol[0] == "p" else np.zeros(n_items, np.int64)
    )
    weight_N = train_count + 1.0 if protocol[0] == "p" else np.ones(n_items)
    key = mix(user.astype(np.uint64) ^ np.uint64(hash60(f"{seed}:{split}:{set_name}:{protocol}")))
    chosen = np.concatenate([target[:, None], _negatives(key, target, barred, class_N, weight_N, n_negatives)], axis=1)
    order_key = mix(user.astype(np.uint64) ^ np.uint64(hash60(f"{seed}:order:{protocol}")))
    order = np.argsort(mix(order_key[:, None] + chosen.astype(np.uint64) * _GOLDEN), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


def _barred_pairs(target: np.ndarray, offsets: np.ndarray, history: np.ndarray, title_id: np.ndarray) -> np.ndarray:
    """Sorted unique `row * N + item` of what is no negative: history, target, and items titled like the target."""
    n, n_items = len(target), len(title_id)
    rows = np.repeat(np.arange(n), np.diff(offsets))
    by_title = np.argsort(title_id, kind="stable")
    low = np.searchsorted(title_id[by_title], title_id[target], "left")
    high = np.searchsorted(title_id[by_title], title_id[target], "right")
    alike = high - low
    alike_rows = np.repeat(np.arange(n), alike)
    rank = np.arange(len(alike_rows)) - np.repeat(np.cumsum(alike) - alike, alike)
    alike_items = by_title[np.repeat(low, alike) + rank]
    pairs = np.sort(np.concatenate([rows * n_items + history, alike_rows * n_items + alike_items]).astype(np.int64))
    # np.unique would hash first: ten times slower on a million pairs (numpy 2.4).
    return pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])] if len(pairs) else pairs


def _contains(sorted_pairs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    if not len(sorted_pairs):
        return np.zeros(pairs.shape, bool)
    index = np.minimum(np.searchsorted(sorted_pairs, pairs), len(sorted_pairs) - 1)
    return sorted_pairs[index] == pairs


def _popularity_classes(train_count: np.ndarray, least: int) -> np.ndarray:
    """Class of every item, by doubling counts (0, 1, 2-3, 4-7, ...); neighbours are joined from the top until each
    holds `least` items."""
    level_N = np.floor(np.log2(train_count + 1.0)).astype(np.int64)
    sizes = np.bincount(level_N)
    class_of_level = np.zeros(len(sizes), np.int64)
    current, held = 0, 0
    for level in range(len(sizes) - 1, -1, -1):
        class_of_level[level] = current
        held += sizes[level]
        if held >= least and sizes[:level].sum() >= least:
            current, held = current + 1, 0
    return class_of_level[level_N]


def _negatives(
    key: np.ndarray, target: np.ndarray, barred: np.ndarray, class_N: np.ndarray, weight_N: np.ndarray, n_negatives: int
) -> np.ndarray:
    """[n, n_negatives] distinct items per row, drawn one after the other with probability ~ weight within the target's
    class."""
    negatives = np.empty((len(key), n_negatives), np.int64)
    order_N = np.argsort(class_N, kind="stable")
    cumulative_N = np.concatenate([[0.0], np.cumsum(weight_N[order_N])])
    starts = np.searchsorted(class_N[order_N], np.arange(class_N.max() + 2))
    for rows in _chunks(np.arange(len(key)), (n_negatives + 8) * 2):
        low, high = cumulative_N[starts[class_N[target[rows]]]], cumulative_N[starts[class_N[target[rows]] + 1]]
        todo, width = np.arange(len(rows)), 2 * n_negatives + 8
        for _ in range(ROUNDS):
            draw_BW = _uniform(mix(key[rows[todo], None] + np.arange(1, width + 1, dtype=np.uint64) * _GOLDEN))
            point_BW = low[todo, None] + draw_BW * (high - low)[todo, None]
            item_BW = order_N[np.clip(np.searchsorted(cumulative_N, point_BW, "right") - 1, 0, len(order_N) - 1)]
            full, picked = _first_distinct(item_BW, rows[todo], barred, len(class_N), n_negatives)
            negatives[rows[todo[full]]] = picked
            todo, width = todo[~full], 2 * width
            if not len(todo):
                break
        for few in _chunks(rows[todo], len(class_N)):
            negatives[few] = _exact_negatives(key[few], few, target[few], barred, class_N, weight_N, n_negatives)
    return negatives


def _chunks(rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    size = max(CHUNK // max(width, 1), 1)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _first_distinct(
    item_BW: np.ndarray, rows: np.ndarray, barred: np.ndarray, n_items: int, wanted: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows have `wanted` distinct allowed draws, and those rows' first ones in drawing order."""
    by_value = np.argsort(item_BW, axis=1, kind="stable")
    sorted_BW = np.take_along_axis(item_BW, by_value, axis=1)
    repeated_BW = np.zeros(item_BW.shape, bool)
    np.put_along_axis(repeated_BW, by_value[:, 1:], sorted_BW[:, 1:] == sorted_BW[:, :-1], axis=1)
    good_BW = ~repeated_BW & ~_contains(barred, rows[:, None] * n_items + item_BW)
    full = good_BW.sum(axis=1) >= wanted
    first = np.argsort(~good_BW[full], axis=1, kind="stable")[:, :wanted]
    return full, np.take_along_axis(item_BW[full], first, axis=1)


def _exact_negatives(
    key: np.ndarray,
    rows: np.ndarray,
    target: np.ndarray,
    barred: np.ndarray,
    class_N: np.ndarray,
    weight_N: np.ndarray,
    wanted: int,
) -> np.ndarray:
    """The same draw over the whole catalogue at once (exponential keys, Efraimidis and Spirakis 2006), for rows with
    little room.

    Where the target's class has too few items left, the nearest classes follow.
    """
    item_N = np.arange(len(class_N))
    u_BN = _uniform(mix(mix(key[:, None] + np.uint64(1)) + (item_N.astype(np.uint64) + np.uint64(1)) * _GOLDEN))
    wait_BN = -np.log1p(-u_BN) / weight_N[None, :]
    distance_BN = np.abs(class_N[None, :] - class_N[target][:, None]).astype(np.float64)
    rank_BN = distance_BN + wait_BN / (1.0 + wait_BN)
    rank_BN[_contains(barred, rows[:, None] * len(class_N) + item_N[None, :])] = np.inf
    return np.argsort(rank_BN, axis=1, kind="stable")[:, :wanted]
