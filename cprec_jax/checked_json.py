"""Values of a JSON file that somebody may have damaged: of the kind that is expected, or `Damaged` with the key."""

import math
from collections.abc import Mapping
from typing import Any


class Damaged(Exception):
    """Which key is wrong, and how. Readers turn it into a `UserError` that names the file."""


def mapping(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Damaged(f"{key} is {'missing' if value is None else 'no mapping'}")
    return value


def items(value: Any, key: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise Damaged(f"{key} is {'missing' if value is None else 'no list'}")
    return value


def text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise Damaged(f"{key} is {'missing' if value is None else 'no text'}")
    return value


def number(value: Any, key: str) -> float:
    """A finite number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Damaged(f"{key} is {'missing' if value is None else 'no number'}")
    if not math.isfinite(value):
        raise Damaged(f"{key} is {value}")
    return float(value)
