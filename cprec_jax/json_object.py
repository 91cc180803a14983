"""Reads a JSON object that others wrote: whatever is wrong with the file is one line that names it."""

import json
from collections.abc import Sequence
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
