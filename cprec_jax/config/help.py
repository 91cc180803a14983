"""The settings of a config section as text, from the dataclass that checks it: what `launch.py JOB --help` prints."""

import dataclasses
import inspect
import typing
from collections.abc import Collection
from typing import Any

from cprec_jax.config.build import section_class


def describe(cls: type, where: str, skip: Collection[str] = ()) -> str:
    """Every key of `cls` in one line, `--config.KEY=DEFAULT` (`...`: has none) and what it is; nested sections below,
    but for `skip`."""
    hints = typing.get_type_hints(cls)
    keys, nested = [], []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # any dataclass: there is no type for that
        about = field.metadata.get("help", "")
        hint = hints[field.name]
        inner = section_class(hint) or next(
            (section for arg in typing.get_args(hint) if (section := section_class(arg))), None
        )
        if field.name in skip:
            continue
        if inner is not None:
            key = f"{where}.{field.name}" if section_class(hint) else f"{where}.{field.name}.NAME"
            nested.append(describe(inner, key).replace(f"{key}\n", f"{key}: {about}\n" if about else f"{key}\n", 1))
        if inner is None or section_class(hint) is not hint:
            keys.append((f"  --{where}.{field.name}={_default(field)}", about))
    width = min(max((len(key) for key, _ in keys), default=0), 60)
    lines = [f"{key.ljust(width)}  {about}".rstrip() for key, about in keys]
    about = inspect.getdoc(cls) if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(") else ""
    return "\n".join(
        [where, *([f"  {line}".rstrip() for line in about.splitlines()] if about else []), *lines, "", *nested]
    )


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(written(field.default)) if not isinstance(field.default, str) else repr(field.default)[1:-1]
    return "..." if field.default_factory is dataclasses.MISSING else repr(written(field.default_factory()))


def written(value: Any) -> Any:
    """Sections as the dicts that a config writes, without what has its default."""
    if dataclasses.is_dataclass(value):
        given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        defaults = {field.name: field.default for field in dataclasses.fields(value)}
        return {key: written(item) for key, item in given.items() if item != defaults[key]}
    if isinstance(value, dict):
        return {key: written(item) for key, item in value.items()}
    return value
