"""The settings of a config section as text, from the dataclass that checks it: what `launch.py JOB --help` prints."""

import dataclasses
import inspect
import types
import typing
from typing import Any, Union


def describe(cls: type, where: str) -> str:
    """Every key of `cls` as `--config.KEY=DEFAULT` (`...`: has none), those of nested sections below, each after its docstring."""
    hints = typing.get_type_hints(cls)
    lines, nested = [], []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # any dataclass: there is no type for that
        if (section := _section(hints[field.name])) is not None:
            nested.append(describe(section, f"{where}.{field.name}"))
        else:
            lines.append(f"  --{where}.{field.name}={_default(field)}")
    about = inspect.getdoc(cls) if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(") else ""
    return "\n".join([where, *([f"  {line}".rstrip() for line in about.splitlines()] if about else []), *lines, "", *nested])


def _section(hint: Any) -> type | None:
    """The dataclass that a field is, or may be."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((choice for choice in choices if isinstance(choice, type) and dataclasses.is_dataclass(choice)), None)


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default) if not isinstance(field.default, str) else field.default
    return "..." if field.default_factory is dataclasses.MISSING else repr(field.default_factory())
