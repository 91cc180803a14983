"""The columns that the catalogue loss adds to a row: which hidden state decides among which tokens.

Their shapes are the same for all rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cprec_jax.train.catalogue_tables import CatalogueTables

DECISIONS = 32  # per block of narrow decisions
EDGES = 256  # children per block: those of its decisions, one after the other

COLUMNS = (
    "wide_position",
    "wide_node",
    "wide_target",
    "wide_level",
    "narrow_position",
    "narrow_first",
    "narrow_end",
    "narrow_target",
    "narrow_level",
    "narrow_tokens",
    "decision",
    "n_items",
    "log_copies",
)


@dataclass(frozen=True, kw_only=True)
class Capacities:
    """The maximum per row: wide decisions, and blocks of narrow decisions."""

    wide: int
    blocks: int


@dataclass(frozen=True, kw_only=True)
class _Decisions:
    """The decisions of one row.

    items: its target items. position: of the hidden state that decides. step: the decision's number in the tables.
    level: which decision of its title, the first is 0.
    """

    items: np.ndarray
    position: np.ndarray
    step: np.ndarray
    level: np.ndarray


def capacities(tables: CatalogueTables, rows: Iterable[Mapping[str, Any]]) -> Capacities:
    """The capacities that every stored row fits in, at least 1 each."""
    wide = blocks = 1
    for row in rows:
        steps = _decisions(tables, row).step
        is_wide = tables.step_node[steps] >= 0
        wide = max(wide, int(np.count_nonzero(is_wide)))
        blocks = max(blocks, len(_cut(tables.step_count[steps[~is_wide]])) - 1)
    return Capacities(wide=wide, blocks=blocks)


def row_columns(tables: CatalogueTables, room: Capacities, row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The columns of one stored row (`tokens`, `lengths`, `loss`, `items`: see `rows.dataset`).

    W wide decisions, G blocks of Q narrow decisions and E tokens. A level counts the decisions of a title; the first is
    0. A row that exceeds `room` is an `AssertionError`.

      wide_position, wide_node, wide_target, wide_level: int32[W]; the node is -1 where there is no decision.
      narrow_position, narrow_first, narrow_end, narrow_target, narrow_level: int32[G, Q]; the children are
        narrow_tokens[first:end] of the block, the target is an index into these tokens; where there is no decision
        first equals end.
      narrow_tokens: int32[G, E], padded with 0.
      decision: int32[T], the decision at a position: w < W for a wide one, W + its index in [G * Q] for a narrow one,
        W + G * Q for none.
      n_items: float32, the number of target items.
      log_copies: float32, the sum over target items of the log of how many titles have the same tokens.
    """
    decisions = _decisions(tables, row)
    is_wide = tables.step_node[decisions.step] >= 0
    decision = np.full(len(row["tokens"]), room.wide + room.blocks * DECISIONS, np.int32)
    columns = _wide(tables, room.wide, decisions, is_wide) | _narrow(
        tables, room.blocks, decisions, ~is_wide, decision, room.wide
    )
    decision[decisions.position[is_wide]] = np.arange(np.count_nonzero(is_wide))
    return {
        **columns,
        "decision": decision,
        "n_items": np.array(len(decisions.items), np.float32),
        "log_copies": np.array(tables.log_copies[decisions.items].sum(), np.float32),
    }


def _wide(tables: CatalogueTables, room: int, decisions: _Decisions, chosen: np.ndarray) -> dict[str, np.ndarray]:
    step = decisions.step[chosen]
    assert len(step) <= room, f"{len(step)} wide decisions, room for {room}"
    padding = room - len(step)
    return {
        "wide_position": np.pad(decisions.position[chosen], (0, padding)).astype(np.int32),
        "wide_node": np.pad(tables.step_node[step], (0, padding), constant_values=-1),
        "wide_target": np.pad(tables.step_target[step], (0, padding)),
        "wide_level": np.pad(decisions.level[chosen], (0, padding)).astype(np.int32),
    }


def _narrow(
    tables: CatalogueTables, room: int, decisions: _Decisions, chosen: np.ndarray, decision: np.ndarray, first_slot: int
) -> dict[str, np.ndarray]:
    """The narrow columns; also fills `decision` in place."""
    step, position, level = decisions.step[chosen], decisions.position[chosen], decisions.level[chosen]
    count = tables.step_count[step].astype(np.int64)
    cuts = _cut(count)
    assert len(cuts) - 1 <= room, f"{len(cuts) - 1} blocks of narrow decisions, room for {room}"
    block = np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))
    slot = block * DECISIONS + np.arange(len(step)) - cuts[block]
    begin = np.cumsum(count) - count  # of a decision's children among all children of the row
    first = begin - begin[cuts[block]]
    columns = np.zeros((5, room * DECISIONS), np.int32)
    columns[:, slot] = position, first, first + count, first + tables.step_target[step], level
    child = np.arange(count.sum())
    owner = np.repeat(np.arange(len(step)), count)
    within = child - begin[owner]
    tokens = np.zeros((room, EDGES), np.int32)
    tokens[block[owner], first[owner] + within] = tables.edge_token[tables.step_first[step][owner] + within]
    decision[position] = first_slot + slot
    names = ("position", "first", "end", "target", "level")
    named = {f"narrow_{name}": values.reshape(room, DECISIONS) for name, values in zip(names, columns, strict=True)}
    return named | {"narrow_tokens": tokens}


def _cut(count: np.ndarray) -> np.ndarray:
    """Split decisions with `count` children each into blocks: int64[blocks + 1], the first of each, and the end."""
    ends = np.cumsum(count, dtype=np.int64)
    cuts = [0]
    while cuts[-1] < len(count):
        begin = cuts[-1]
        before = ends[begin - 1] if begin else 0
        last = min(begin + DECISIONS, int(np.searchsorted(ends, before + EDGES, side="right")))
        assert last > begin, f"a narrow node with {count[begin]} children"
        cuts.append(last)
    return np.array(cuts, np.int64)


def _decisions(tables: CatalogueTables, row: Mapping[str, Any]) -> _Decisions:
    pieces = np.asarray(row["items"], np.int64)
    item, start = _target_items(tables, row, pieces)
    assert (tables.item_set[item] >= 0).all(), f"row {row.get('row')}: a target item of none of the sets"
    first = tables.item_steps[item]
    count = tables.item_steps[item + 1] - first
    level = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    step = np.repeat(first, count) + level
    return _Decisions(
        items=item, position=np.repeat(start, count) + tables.step_depth[step] - 1, step=step, level=level
    )


def _target_items(tables: CatalogueTables, row: Mapping[str, Any], pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the target items of a row, and where their tokens begin.

    An item is a target where all its tokens have loss and something precedes it in its document.
    """
    if not len(pieces):
        return pieces, pieces
    lengths = np.asarray(row["lengths"], np.int64)
    is_header = pieces == 0
    document = np.cumsum(is_header) - 1
    size = np.where(is_header, 0, tables.item_length[pieces - 1])
    assert is_header[0] and document[-1] + 1 == len(lengths), (
        f"row {row.get('row')}: its items do not fit its documents"
    )
    size[is_header] = lengths - np.bincount(document, size, len(lengths)).astype(np.int64)
    assert (size[is_header] >= 0).all(), f"row {row.get('row')}: its items are longer than its documents"
    end = np.cumsum(size)
    start = end - size
    losses = np.concatenate([[0], np.cumsum(row["loss"], dtype=np.int64)])
    has_loss = losses[end] - losses[start] == size
    chosen = ~is_header & has_loss & (start > start[is_header][document])
    return pieces[chosen] - 1, start[chosen]
