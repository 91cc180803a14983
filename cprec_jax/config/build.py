"""Frozen dataclasses from config sections: the edge between `ConfigDict` or a command line and typed code."""

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union

from cprec_jax.errors import UserError

T = TypeVar("T")


class Written(str):
    """A value as it stands on a command line; what it means is decided by the type of its field."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: ``; did you mean 'x'?`` or ``; known: a, b``."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def build(cls: type[T], section: Mapping[str, Any], where: str) -> T:
    """Make the dataclass `cls` from a config section, recursively.

    `where` is the dotted name of the section (for example ``config.train``) and starts every message. Nested dataclass
    fields are built from nested mappings. Lists become tuples where the field says tuple; an int is accepted for a
    float; a `Written` value is read by the field's type. A classmethod `complete` of `cls`, where there is one, puts
    another notation of the section into this one first.

    Raises `UserError` for unknown keys (with the nearest one), missing keys, wrong types, and for whatever
    ``__post_init__`` of `cls` refuses with `ValueError`: all mistakes of the section at once, one line each.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # any dataclass: there is no type for that
    section = getattr(cls, "complete", dict)(section)
    mistakes = [f"{where}.{key}: unknown key{nearest(str(key), fields)}" for key in section if key not in fields]
    values = {}
    for key in fields.keys() & section.keys():
        try:
            values[key] = convert(hints[key], section[key], f"{where}.{key}")
        except UserError as error:
            mistakes.append(str(error))
    for name, field in fields.items():
        if (
            name not in section
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            mistakes.append(f"{where}.{name}: missing; add it to the config")
    if mistakes:
        raise UserError("\n".join(sorted(mistakes)))
    try:
        return cls(**values)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def section_class(hint: Any) -> type | None:
    """The dataclass that a field of this type is, or may be."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((choice for choice in choices if isinstance(choice, type) and dataclasses.is_dataclass(choice)), None)


def at_least_one(section: Any, *names: str) -> None:
    """For `__post_init__`: `ValueError` for the first of these fields that is below 1. None is left alone."""
    for name in names:
        if getattr(section, name) is not None and getattr(section, name) < 1:
            raise ValueError(f"{name} {getattr(section, name)} must be at least 1")


def within(section: Any, low: int, high: int, *names: str) -> None:
    """For `__post_init__`: `ValueError` for the first of these fields that does not lie in low..high. None is left
    alone."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} {value} must lie in {low}..{high}")


def convert(hint: Any, value: Any, where: str) -> Any:
    """A value as one of the type `hint`. Raises `UserError`, which begins with `where`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Written) and origin not in (Union, types.UnionType):
        value = _read(hint, value)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_choice(args, value, where)
    if origin is typing.Literal:
        return _one_of(args, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where)  # type: ignore[arg-type]  # `is_dataclass` is true of instances, too, which no hint is
    if origin is tuple and isinstance(value, list | tuple):
        return _convert_all(
            ((index, args[0], item, f"{where}{_entry_key(index, item)}") for index, item in enumerate(value)), tuple
        )
    if origin in (dict, Mapping) or getattr(hint, "__origin__", None) is Mapping:
        if isinstance(value, Mapping):
            inner = args[1] if len(args) == 2 else Any
            entries = [(str(key), inner, item, f"{where}.{key}") for key, item in value.items()]
            return dict(zip([key for key, *_ in entries], _convert_all(entries, list), strict=True))
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
    raise UserError(f"{where}: expected {_named(hint)}, got {_shown(value)}")


def _convert_all(items: Iterable[tuple[Any, Any, Any, str]], kind: Any) -> Any:
    """All of them converted, or all their mistakes."""
    converted, mistakes = [], []
    for _, hint, item, where in items:
        try:
            converted.append(convert(hint, item, where))
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))
    return kind(converted)


def _entry_key(index: int, item: Any) -> str:
    """How an entry of a list is called: by its name, where it has one."""
    name = item.get("name") if isinstance(item, Mapping) else None
    return f".{name}" if isinstance(name, str) and name else f"[{index}]"


def _one_choice(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(None) in args and (value is None or (isinstance(value, Written) and value.lower() == "none")):
        return None
    choices = [arg for arg in args if arg is not type(None)]
    literals = tuple(
        word for choice in choices if typing.get_origin(choice) is typing.Literal for word in typing.get_args(choice)
    )
    if isinstance(value, Written) and str(value) in literals:
        return str(value)
    choices = [choice for choice in choices if typing.get_origin(choice) is not typing.Literal]
    sections = [choice for choice in choices if dataclasses.is_dataclass(choice)]
    if sections and isinstance(value, Mapping):
        choices = sections  # whose message says which of its keys is wrong
    if len(choices) == 1 and not literals:
        return convert(choices[0], value, where)
    for choice in choices:
        try:
            return convert(choice, value, where)
        except UserError:
            continue
    others = " or ".join(_named(choice) for choice in choices)
    if literals:
        return _one_of(literals, value, where, f", nor {others}" if others else "")
    raise UserError(f"{where}: expected {others}, got {_shown(value)}")


def _one_of(literals: tuple[Any, ...], value: Any, where: str, others: str = "") -> Any:
    if value not in literals:
        raise UserError(f"{where}: {value!r} is not one of {', '.join(map(repr, literals))}{others}")
    return value


def _read(hint: Any, text: Written) -> Any:
    """What a value of the command line is, for a field of this type: text stays text, all else is a Python literal (or
    true, false)."""
    if hint is str:
        return str(text)
    if typing.get_origin(hint) is typing.Literal and str(text) in typing.get_args(hint):
        return str(text)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return str(text)


def _shown(value: Any) -> str:
    return repr(str(value)) if isinstance(value, Written) else f"{type(value).__name__} {value!r}"


def _named(hint: Any) -> str:
    """The type of a field in the words of a config."""
    if typing.get_origin(hint) is tuple:
        return "a tuple such as ('a', 'b')"
    if dataclasses.is_dataclass(hint):
        return f"a section with the keys {', '.join(field.name for field in dataclasses.fields(hint))}"
    if typing.get_origin(hint) in (dict, Mapping):
        return "a mapping such as {'a': ...}"
    return getattr(hint, "__name__", str(hint))
