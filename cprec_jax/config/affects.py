"""What each setting affects: the leaves of a `Config`, each with the kinds of artefacts that are made anew when it
changes.

Kinds are words such as `rows.cpt` or `results.model`. An artefact is of several kinds (`jobs/`), and every setting
names those that it affects; a setting that names none affects the artefact of its own section (`OF_SECTION`).
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from cprec_jax.config.build import section_class

OF_SECTION: dict[str, tuple[str, ...]] = {
    "name": ("export",),
    "corpus": ("corpus",),
    "text": ("rows",),
    "pack": ("rows",),
    "model": ("runs",),
    "train": ("runs",),
    "runs": ("runs",),
    "mesh": (),
    "evaluate": ("results",),
    "export": ("export",),
    "generate": (),
    "report": ("report",),
}


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One value of a config: its dotted key, its value and default as JSON (`MISSING`: has none), and the kinds of
    artefacts it affects.

    field: `Class.field`, where it is declared. content: it names files, which count by their content instead.
    """

    key: str
    value: Any
    default: Any
    field: str
    affects: tuple[str, ...]
    content: bool


def leaves(config: Any) -> Iterator[Leaf]:
    """All leaves of a `Config`, in the order of its fields; none of a section that it does not have."""
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        if section.name == "runs":  # whose sections are `train` and `model` of the config of one run
            continue
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, section.name, OF_SECTION[section.name], False)
        elif value is not None:
            yield _leaf(config, section, section.name, value, OF_SECTION[section.name], False)


def _leaves(section: Any, where: str, affects: tuple[str, ...], content: bool) -> Iterator[Leaf]:
    hints = _hints(section.__class__)
    for field in dataclasses.fields(section):
        value, key = getattr(section, field.name), f"{where}.{field.name}"
        kinds = affects if field.metadata.get("affects") is None else field.metadata["affects"]
        by_content = content or bool(field.metadata.get("content"))
        if dataclasses.is_dataclass(value):
            if (
                section_class(hints[field.name]) is not hints[field.name]
            ):  # it may be something else, so that it is one says something
                yield _leaf(section, field, key, "section", kinds, by_content)
            yield from _leaves(value, key, kinds, by_content)
        elif _named(value):
            # of a list the order counts, too
            names = sorted(value) if isinstance(value, Mapping) else [entry.name for entry in value]
            yield dataclasses.replace(_leaf(section, field, key, names, kinds, by_content), default=[])
            for name, entry in (
                value.items() if isinstance(value, Mapping) else ((entry.name, entry) for entry in value)
            ):
                yield from _leaves(entry, f"{key}.{name}", tuple(kind.format(key=name) for kind in kinds), by_content)
        else:
            yield _leaf(section, field, key, as_json(value), kinds, by_content)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _leaf(
    section: Any, field: dataclasses.Field, key: str, value: Any, affects: tuple[str, ...], content: bool
) -> Leaf:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if dataclasses.is_dataclass(default):
        default = "section"
    elif default is not MISSING:
        default = as_json(default)
    name = f"{type(section).__name__}.{field.name}"
    return Leaf(key=key, value=value, default=default, field=name, affects=affects, content=content)


def _named(value: Any) -> bool:
    """Whether it holds sections by name: a mapping of them, or a tuple of sections with a `name`."""
    entries = list(value.values()) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else []
    return bool(entries) and all(map(dataclasses.is_dataclass, entries))


def as_json(value: Any) -> Any:
    """A value as JSON gives it back."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an artefact takes from the config: values by key, and their defaults where they have one."""

    values: dict[str, Any]
    defaults: dict[str, Any]

    def differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """The keys whose value is another than what was `recorded`. One that the record lacks counts as equal while it
        has its default.

        One that only the record has is of a section by name, whose names are a key of their own, or no longer affects
        the artefact.
        """
        return [
            key for key, value in self.values.items() if recorded.get(key, self.defaults.get(key, MISSING)) != value
        ]

    def where(self, chosen: Callable[[str], bool]) -> "Settings":
        """Those whose key is `chosen`."""
        values, defaults = (
            {key: mapping[key] for key in mapping if chosen(key)} for mapping in (self.values, self.defaults)
        )
        return Settings(values=values, defaults=defaults)

    def joined(self, more: "Settings") -> "Settings":
        return Settings(values={**self.values, **more.values}, defaults={**self.defaults, **more.defaults})


def settings_of_section(section: Any, key: str, affects: tuple[str, ...]) -> Settings:
    """The settings of one section, under the dotted name `key`; fields that name no artefacts affect those of
    `affects`."""
    return _settings([leaf for leaf in _leaves(section, key, affects, False) if not leaf.content])


def settings_of(config: Any, kinds: Collection[str]) -> Settings:
    """The settings that affect an artefact of these `kinds`, those that count by content left out."""
    return _settings([leaf for leaf in leaves(config) if not leaf.content and not set(kinds).isdisjoint(leaf.affects)])


def _settings(chosen: list[Leaf]) -> Settings:
    return Settings(
        values={leaf.key: leaf.value for leaf in chosen},
        defaults={leaf.key: leaf.default for leaf in chosen if leaf.default is not MISSING},
    )
