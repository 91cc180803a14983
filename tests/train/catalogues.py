"""Small catalogues, stored rows of their items, and the catalogue loss by brute force: a mask over the whole
vocabulary."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.text.catalogue import Catalogue
from tests.inference.titles import ragged

HEADER = (60, 61, 62)


def catalogue_of(titles: list[tuple[int, ...]]) -> Catalogue:
    """Titles with the end of item appended."""
    tokens, offsets = ragged(titles)
    return Catalogue(tokens=tokens, offsets=offsets.astype(np.int64), unknown_tokens=0)


def stored_row(
    catalogue: Catalogue,
    documents: Sequence[Sequence[int]],
    length: int,
    header: Sequence[int] = HEADER,
    last_only: bool = False,
) -> dict[str, Any]:
    """A row as it is on disk: documents of a header and items. last_only: the last item of a document alone has
    loss."""
    tokens, loss, lengths, pieces = [], [], [], []
    for items in documents:
        parts = [np.array(header, np.int32), *(catalogue.item(item) for item in items)]
        has_loss = [False, *(not last_only or place == len(items) - 1 for place in range(len(items)))]
        tokens += parts
        loss += [np.full(len(part), flag, np.uint8) for part, flag in zip(parts, has_loss, strict=True)]
        lengths.append(sum(map(len, parts)))
        pieces += [0, *(item + 1 for item in items)]
    padding = (0, length - sum(lengths))
    return {
        "tokens": np.pad(np.concatenate(tokens), padding),
        "lengths": np.array(lengths, np.int32),
        "loss": np.pad(np.concatenate(loss), padding),
        "items": np.array(pieces, np.int32),
        "row": np.int32(0),
    }


def children_of(catalogue: Catalogue, items: np.ndarray) -> dict[tuple[int, ...], set[int]]:
    """What may follow each prefix of the titles."""
    children: dict[tuple[int, ...], set[int]] = {}
    for item in items:
        title = tuple(int(token) for token in catalogue.item(item))
        for depth in range(len(title)):
            children.setdefault(title[:depth], set()).add(title[depth])
    return children


def mask_of(
    catalogue: Catalogue, sets: Mapping[str, np.ndarray], targets: Sequence[tuple[int, int]], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Of one row, from its targets (item, where its tokens begin): allowed bool[T, V] (nothing where nothing is
    decided), labels and levels int[T], and the sum of the logs of copies."""
    allowed, labels, levels, copies = (
        np.zeros(shape, bool),
        np.zeros(shape[0], np.int32),
        np.zeros(shape[0], np.int32),
        0.0,
    )
    tries = {name: children_of(catalogue, items) for name, items in sets.items()}
    for item, start in targets:
        name = next(name for name, items in sets.items() if item in items)
        title = tuple(int(token) for token in catalogue.item(item))
        copies += np.log(sum(title == tuple(catalogue.item(other)) for other in sets[name]))
        level = 0
        for depth, token in enumerate(title):
            below = sorted(tries[name][title[:depth]])
            if len(below) > 1:
                allowed[start + depth - 1, below], labels[start + depth - 1], levels[start + depth - 1] = (
                    True,
                    token,
                    level,
                )
                level += 1
    return allowed, labels, levels, copies


def naive_sum(x_BTD: Any, w_VD: Any, masks: Sequence[Any], temperature: float | tuple[float, ...] = 1.0) -> jax.Array:
    """The loss of rows with these masks, all logits and all."""
    allowed, labels, levels, copies = (np.stack(values) for values in zip(*masks, strict=True))
    by_level = temperature if isinstance(temperature, tuple) else (temperature,)
    tau = jnp.asarray(by_level)[np.minimum(levels, len(by_level) - 1)]
    logits = jnp.where(allowed, jnp.einsum("btd,vd->btv", x_BTD, w_VD) / tau[..., None], -1e30)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), jnp.asarray(labels)[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(allowed.any(axis=-1), picked, 0.0)) + copies.sum()
