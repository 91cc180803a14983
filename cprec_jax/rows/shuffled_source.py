"""Deals the items of users' sequences out anew: the same lengths and the same items, in random order and company."""

import numpy as np

ROUNDS = 30  # of mending; each mends a share of the repeats that are left
MOST_TRIES = 64  # places per repeat and round that it may change with


def deal(items: np.ndarray, offsets: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """The items in random places, so that, where it can be had, no sequence holds an item twice.

    A random permutation gives users an item twice whom the corpus gives none twice, which a model could tell apart. So
    an item that its sequence holds already changes places with a random one elsewhere, wherever both are new where they
    come.

    Args:
      items, offsets: sequence i is `items[offsets[i]:offsets[i + 1]]`.

    Returns:
      The items, and how many of them still repeat another one of their sequence.
    """
    dealt = rng.permutation(items)
    sequence = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
    n_items = int(items.max(initial=0)) + 1
    for _ in range(ROUNDS):
        held, again = _repeats(sequence * n_items + dealt)
        if not len(again):
            break
        tries = min(max(len(dealt) // (4 * len(again)), 1), MOST_TRIES)
        partner, which = np.unique(rng.integers(len(dealt), size=len(again) * tries), return_index=True)
        index = again[which // tries]
        fits = ~np.isin(partner, again)
        for target, origin in ((index, partner), (partner, index)):
            fits &= ~_among(sequence[target] * n_items + dealt[origin], held)
        index, which = np.unique(index[fits], return_index=True)
        partner = partner[fits][which]
        dealt[index], dealt[partner] = dealt[partner], dealt[index]
    return dealt, len(_repeats(sequence * n_items + dealt)[1])


def _repeats(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The keys in rising order, and the places of those that another one before them equals."""
    order = np.argsort(keys, kind="stable")
    held = keys[order]
    return held, order[1:][held[1:] == held[:-1]]


def _among(keys: np.ndarray, held: np.ndarray) -> np.ndarray:
    return held[np.minimum(np.searchsorted(held, keys), len(held) - 1)] == keys
