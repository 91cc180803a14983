"""Frozen dataclasses from config sections: the edge between `ConfigDict` and typed code."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union

from cprec_jax.errors import UserError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: ``; did you mean 'x'?`` or ``; known: a, b``."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def build(cls: type[T], section: Mapping[str, Any], where: str) -> T:
    """Make the dataclass `cls` from a config section, recursively.

    `where` is the dotted name of the section (for example ``config.train``) and starts every message. Nested dataclass fields are
    built from nested mappings. Lists become tuples where the field says tuple; an int is accepted for a float.

    Raises `UserError` for an unknown key (with the nearest one), a missing key, a wrong type, and for whatever ``__post_init__`` of
    `cls` refuses with `ValueError`.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # any dataclass: there is no type for that
    section = dict(section)
    for key in section:
        if key not in fields:
            raise UserError(f"{where}.{key}: unknown key{nearest(key, fields)}")
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in section.items()}
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}.{name}: missing; add it to the config")
    try:
        return cls(**values)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def at_least_one(made: Any, *names: str) -> None:
    """For `__post_init__`: `ValueError` for the first of these fields that is below 1. None is left alone."""
    for name in names:
        if getattr(made, name) is not None and getattr(made, name) < 1:
            raise ValueError(f"{name} {getattr(made, name)} must be at least 1")


def within(made: Any, low: int, high: int, *names: str) -> None:
    """For `__post_init__`: `ValueError` for the first of these fields that does not lie in low..high. None is left alone."""
    for name in names:
        value = getattr(made, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} {value} must lie in {low}..{high}")


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        choices = [arg for arg in args if arg is not type(None)]
        words = tuple(word for choice in choices if typing.get_origin(choice) is typing.Literal for word in typing.get_args(choice))
        choices = [choice for choice in choices if typing.get_origin(choice) is not typing.Literal]
        for choice in choices if words else choices[:-1]:
            try:
                return _convert(choice, value, where)
            except UserError:
                continue
        if not words:
            return _convert(choices[-1], value, where)
        others = [getattr(choice, "__name__", str(choice)) for choice in choices]
        return _one_of(words, value, where, f", nor {' or '.join(others)}" if others else "")
    if origin is typing.Literal:
        return _one_of(args, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where)  # type: ignore[arg-type]  # `is_dataclass` is true of instances, too, which no hint is
    if origin is tuple and isinstance(value, list | tuple):
        inner = args[0] if args else Any
        return tuple(_convert(inner, item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin in (dict, Mapping):
        if isinstance(value, Mapping):
            inner = args[1] if len(args) == 2 else Any
            return {str(key): _convert(inner, item, f"{where}.{key}") for key, item in value.items()}
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, bool):
        if hint is bool:
            return value
    elif isinstance(value, hint if isinstance(hint, type) else (origin or ())):
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):  # no file and no table takes it
            raise UserError(f"{where}: {value!r} holds half a surrogate pair, which is no text")
        return value
    name = "a tuple such as ('a', 'b')" if origin is tuple else getattr(hint, "__name__", str(hint))
    raise UserError(f"{where}: expected {name}, got {type(value).__name__} {value!r}")


def _one_of(words: tuple[Any, ...], value: Any, where: str, others: str = "") -> Any:
    if value not in words:
        raise UserError(f"{where}: {value!r} is not one of {', '.join(map(repr, words))}{others}")
    return value
