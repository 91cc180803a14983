"""What a stored row becomes: decisions of target items alone, at the right positions, in arrays of one size."""

import pickle
from typing import Any

import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.train import catalogue_rows
from cprec_jax.train.catalogue_rows import COLUMNS, Capacities, capacities, row_columns
from cprec_jax.train.catalogue_tables import build_tables
from tests.inference.titles import random_titles
from tests.train.catalogues import HEADER, catalogue_of, children_of, stored_row

T = 64
CATALOGUE = catalogue_of(random_titles(0, 60, tokens=5))
ITEMS = np.arange(60)
TABLES = build_tables(CATALOGUE, {"a": ITEMS}, narrow=3)
CHILDREN = children_of(CATALOGUE, ITEMS)


def decisions(columns: dict[str, np.ndarray]) -> dict[int, tuple[set[int], int, int]]:
    """Position -> (tokens to choose from, the target, the level), read back from the columns."""
    found = {}
    width, narrow = len(columns["wide_node"]), columns["narrow_first"]
    for w in np.flatnonzero(columns["wide_node"] >= 0):
        allowed = set(TABLES.union[TABLES.allowed[columns["wide_node"][w]]].tolist())
        position = int(columns["wide_position"][w])
        assert columns["decision"][position] == w and position not in found
        found[position] = (allowed, int(TABLES.union[columns["wide_target"][w]]), int(columns["wide_level"][w]))
    for block, place in zip(*np.nonzero(columns["narrow_end"] > narrow), strict=True):
        tokens = columns["narrow_tokens"][block]
        children = tokens[narrow[block, place] : columns["narrow_end"][block, place]].tolist()
        position = int(columns["narrow_position"][block, place])
        assert columns["decision"][position] == width + block * narrow.shape[1] + place and position not in found
        assert len(set(children)) == len(children) <= 3
        found[position] = (
            set(children),
            int(tokens[columns["narrow_target"][block, place]]),
            int(columns["narrow_level"][block, place]),
        )
    nothing = width + narrow.size
    assert np.array_equal(np.flatnonzero(columns["decision"] < nothing), sorted(found))
    return found


def expected(row: dict[str, Any], targets: list[tuple[int, int]]) -> dict[int, tuple[set[int], int, int]]:
    found = {}
    for item, start in targets:
        title, level = tuple(int(token) for token in CATALOGUE.item(item)), 0
        assert tuple(row["tokens"][start : start + len(title)]) == title
        for depth, token in enumerate(title):
            if len(CHILDREN[title[:depth]]) > 1:
                found[start + depth - 1] = (CHILDREN[title[:depth]], token, level)
                level += 1
    return found


def starts(items: list[int], first: int) -> list[tuple[int, int]]:
    return list(zip(items, (first + np.cumsum([0, *CATALOGUE.lengths[items[:-1]]])).tolist(), strict=True))


@pytest.fixture(params=[(32, 256), (2, 4)], ids=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_rows, "DECISIONS", request.param[0])
    monkeypatch.setattr(catalogue_rows, "EDGES", request.param[1])


def test_every_decision_of_every_target_item_is_there(blocks: None) -> None:
    documents = [[5, 9, 5], [31, 2]]
    row = stored_row(CATALOGUE, documents, T)
    room = capacities(TABLES, [row])
    columns = row_columns(TABLES, room, row)
    second = int(row["lengths"][0]) + len(HEADER)
    assert decisions(columns) == expected(row, [*starts(documents[0], len(HEADER)), *starts(documents[1], second)])
    assert columns["n_items"] == 5
    copies = [(CATALOGUE.tokens[CATALOGUE.offsets[item] : CATALOGUE.offsets[item + 1]]).tobytes() for item in ITEMS]
    assert float(columns["log_copies"]) == pytest.approx(
        sum(np.log(copies.count(copies[item])) for item in (5, 9, 5, 31, 2))
    )
    assert set(columns) == set(COLUMNS)


def test_more_room_changes_shapes_alone(blocks: None) -> None:
    row = stored_row(CATALOGUE, [[5, 9, 5], [31, 2]], T)
    room = capacities(TABLES, [row])
    larger = row_columns(TABLES, Capacities(wide=room.wide + 3, blocks=room.blocks + 2), row)
    assert decisions(larger) == decisions(row_columns(TABLES, room, row))
    assert larger["wide_node"].shape == (room.wide + 3,) and larger["narrow_tokens"].shape[0] == room.blocks + 2


def test_capacities_are_those_of_the_fullest_row_and_no_less(blocks: None) -> None:
    rows = [stored_row(CATALOGUE, [items], T) for items in ([1], [5, 9, 5, 31, 2, 7], [4, 4])]
    room = capacities(TABLES, rows)
    assert room == capacities(TABLES, rows[1:2]) != capacities(TABLES, rows[:1])
    for smaller in (
        Capacities(wide=room.wide - 1, blocks=room.blocks),
        Capacities(wide=room.wide, blocks=room.blocks - 1),
    ):
        with pytest.raises(AssertionError, match="room for"):
            row_columns(TABLES, smaller, rows[1])


def test_only_items_with_loss_are_targets() -> None:
    row = stored_row(CATALOGUE, [[5, 9, 31]], T, last_only=True)
    columns = row_columns(TABLES, capacities(TABLES, [row]), row)
    assert decisions(columns) == expected(row, starts([5, 9, 31], len(HEADER))[2:]) and columns["n_items"] == 1


def test_an_item_that_begins_its_document_is_no_target() -> None:
    row = stored_row(CATALOGUE, [[5, 9], [31]], T, header=())
    columns = row_columns(TABLES, capacities(TABLES, [row]), row)
    assert decisions(columns) == expected(row, starts([5, 9], 0)[1:]) and columns["n_items"] == 1


def test_plain_text_has_no_decisions() -> None:
    row = {
        "tokens": np.zeros(T, np.int32),
        "lengths": np.array([T]),
        "loss": np.ones(T, np.uint8),
        "items": np.zeros(0, np.int32),
    }
    columns = row_columns(TABLES, capacities(TABLES, [row]), row)
    assert capacities(TABLES, [row]) == Capacities(wide=1, blocks=1)
    assert decisions(columns) == {} and columns["n_items"] == columns["log_copies"] == 0


def test_tables_can_be_pickled() -> None:
    row = stored_row(CATALOGUE, [[5, 9, 5]], T)
    copied = pickle.loads(pickle.dumps(TABLES))
    for name, value in row_columns(copied, capacities(TABLES, [row]), row).items():
        np.testing.assert_array_equal(value, row_columns(TABLES, capacities(TABLES, [row]), row)[name])


@pytest.mark.parametrize("titles", [[(1, 2)], [(1, 2), (1, 2)]], ids=["one", "alike"])
def test_a_catalogue_without_a_choice_is_refused(titles: list[tuple[int, ...]]) -> None:
    more = catalogue_of([*titles, (1, 3), (2,)])
    with pytest.raises(UserError, match=r"set lonely has .*nothing to choose from") as caught:
        build_tables(more, {"fine": np.arange(len(titles), len(more)), "lonely": np.arange(len(titles))})
    assert "\n" not in str(caught.value)


def test_items_of_no_set_may_stand_in_a_row_but_be_no_target() -> None:
    tables = build_tables(CATALOGUE, {"a": ITEMS[:30]}, narrow=3)
    row_columns(tables, Capacities(wide=9, blocks=9), stored_row(CATALOGUE, [[40, 3]], T, last_only=True))
    with pytest.raises(AssertionError, match="none of the sets"):
        row_columns(tables, Capacities(wide=9, blocks=9), stored_row(CATALOGUE, [[40, 3]], T))
