"""`grid` of a run: every combination of the values that it gives for settings, each as a run of its own."""

import dataclasses
import itertools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from cprec_jax.config.build import convert, nearest
from cprec_jax.config.run import COMPUTES, RunSpec
from cprec_jax.errors import UserError

SECTIONS = ("train", "model", "lora", "cpt", "sft")  # of a run: whose settings a grid may vary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One combination: the values by dotted key, and the run that has them."""

    values: dict[str, Any]
    run: RunSpec


def grid_points(run: RunSpec, where: str) -> list[Point]:
    """All combinations, the last key varying first; none without a grid. where: the run's dotted name, for messages.

    Raises `UserError` with all mistakes: keys that are no settings, values of another type, combinations that do not
    fit.
    """
    axes, mistakes = [], []
    for key, values in _leaves(run.grid, ""):
        try:
            axes.append([(key, value) for value in _values(run, key, values, f"{where}.grid.{key}")])
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))
    points = []
    for combination in itertools.product(*axes) if axes else ():
        try:
            points.append(Point(values=dict(combination), run=_with_values(run, combination)))
        except ValueError as error:
            named = ", ".join(f"{key} {value}" for key, value in combination)
            raise UserError(f"{where}.grid: {named}: {error}") from error
    return points


def _leaves(grid: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in grid.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _values(run: RunSpec, key: str, values: Any, where: str) -> list[Any]:
    """The values of one key, by the type of its field."""
    values = convert(Any, values, where)  # a value of the command line is text so far
    if not isinstance(values, list | tuple) or not values:
        raise UserError(f"{where}: expected a list of values to try, got {type(values).__name__} {values!r}")
    section, *path = key.split(".")
    if section not in SECTIONS or not path:
        raise UserError(f"{where}: a grid varies settings of {', '.join(SECTIONS)}, such as train.schedule.peak")
    if section in ("cpt", "sft") and section != run.stage:
        raise UserError(f"{where}: belongs to the stage {section!r}, and the run is of the stage {run.stage!r}")
    if section == "sft" and path[0] in ("targets", "users"):
        raise UserError(f"{where}: other rows are no point of a grid; make it a run of its own")
    if section == "model" and path[0] not in COMPUTES:
        raise UserError(f"{where}: all points have one model; of it a grid varies {', '.join(COMPUTES)}")
    node: Any = getattr(run, section)
    if node is None:
        raise UserError(f"{where}: the run has no section {section!r}; add one, such as {{}}")
    for part in path[:-1]:
        if not dataclasses.is_dataclass(getattr(node, part, None)):
            raise UserError(f"{where}: no section {part!r}")
        node = getattr(node, part)
    hints = typing.get_type_hints(type(node))
    if path[-1] not in hints:
        raise UserError(f"{where}: unknown key{nearest(path[-1], hints)}")
    return [convert(hints[path[-1]], value, where) for value in values]


def _with_values(run: RunSpec, combination: tuple[tuple[str, Any], ...]) -> RunSpec:
    changed: Any = dataclasses.replace(run, grid={})
    for key, value in combination:
        changed = _replaced(changed, key.split("."), value)
    return changed


def _replaced(section: Any, path: list[str], value: Any) -> Any:
    key, *rest = path
    return dataclasses.replace(section, **{key: _replaced(getattr(section, key), rest, value) if rest else value})
