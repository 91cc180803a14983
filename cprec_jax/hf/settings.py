"""Typed look-ups in JSON objects that others wrote: errors name the file, the key and the value."""

import sys
from collections.abc import Mapping
from typing import Any

from cprec_jax.errors import UserError


class Settings:
    """The keys of one object, over the defaults of its family; null means absent. `where` starts every message."""

    def __init__(self, given: Mapping[str, Any], where: str, defaults: Mapping[str, Any] | None = None):
        self.given, self.where, self.defaults = given, where, defaults or {}
        self.raw = {**self.defaults, **given}  # here a null in the file stays one

    def value(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        value = next(
            (
                candidate
                for candidate in (self.given.get(key), self.defaults.get(key), default)
                if candidate is not None
            ),
            None,
        )
        if value is None:
            raise UserError(f"{self.where}: {key} is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"{self.where}: {key} = {value!r} has the wrong type")
        return value

    def integer(self, key: str, default: int | None = None, least: int = 1, most: int = 2**31 - 1) -> int:
        value = self.value(key, int, default)
        if value < least:
            raise UserError(f"{self.where}: {key} = {value} must be at least {least}")
        if value > most:
            raise UserError(f"{self.where}: {key} = {value} must be at most {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.value(key, (int, float), default)
        if (
            not abs(value) <= sys.float_info.max
        ):  # NaN, infinities (Python's JSON has both), and integers beyond a float
            raise UserError(f"{self.where}: {key} = {value!r} is not a finite number")
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.number(key, default)
        if value <= 0:
            raise UserError(f"{self.where}: {key} = {value!r} must be above 0")
        return value

    def flag(self, key: str) -> bool:
        return self.value(key, bool, False)

    def section(self, key: str) -> "Settings":
        """The object under `key`, empty where it is absent; its messages name both keys."""
        return Settings(self.value(key, dict, {}), f"{self.where}: {key}")
