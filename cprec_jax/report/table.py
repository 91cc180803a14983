"""A table as data: the text and mark of each cell. `render`, `html` and `latex` print it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

NOTHING = "–"
Mark = Literal["", "best", "second"]
RowKind = Literal["method", "bound", "reference"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Printed text, its mark, and a 95 % interval as text (empty: none)."""

    text: str
    mark: Mark = ""
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """`group` is a heading over several columns."""

    name: str
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    cells: tuple[Cell, ...]
    kind: RowKind = "method"


@dataclass(frozen=True, kw_only=True)
class Table:
    """The first `text_columns` columns hold text, the others figures. Nothing in it is escaped yet."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    subtitle: str = ""
    warning: str = ""
    notes: tuple[str, ...] = ()
    text_columns: int = 1


@dataclass(frozen=True, kw_only=True)
class Section:
    """Tables under one heading. `folded` ones are closed at first in HTML."""

    title: str
    intro: str
    tables: tuple[Table, ...] = field(default_factory=tuple)
    folded: bool = False


def describe(value: Any, nested: bool = False) -> str:
    """Any small JSON value in words; nested mappings become `key value, key value`."""
    if value is None or value == {} or value == []:
        return NOTHING
    if isinstance(value, Mapping):
        # The keys inside may be names of sets, which stay as they are.
        return ", ".join(
            f"{key if nested else str(key).replace('_', ' ')} {describe(inner, True)}" for key, inner in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(describe(inner) for inner in value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
