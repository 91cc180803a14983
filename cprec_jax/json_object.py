"""JSON objects that others wrote or somebody may have damaged: whatever is wrong with a file is one line that names it,
whatever is wrong with a value is `Damaged` with its key."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cprec_jax.errors import UserError, one_line


def read_object(path: Path, mend: str = "", once: bool = False) -> dict[str, Any]:
    """The JSON object in a file. Damaged, or no object: `UserError`. Absent: `FileNotFoundError`.

    mend: how to mend it, for the message. once: a key that stands twice is damage, too; else the last one wins.
    """
    advice = f"; {mend}" if mend else ""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=keys_once if once else None)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}){advice}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object{advice}")
    return value


def keys_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` of `json` that raises `ValueError` for a key that stands twice, where `json` lets the last
    one win."""
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        duplicates = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"duplicate keys {', '.join(duplicates[:5])}")
    return result


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
