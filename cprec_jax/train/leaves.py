"""Parameters by the names of their leaves: matching patterns, splitting and merging trees."""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
from flax import traverse_util

from cprec_jax.errors import UserError

Leaves = dict[str, Any]  # a nested dict of arrays


def leaf_name(path: Sequence[Any]) -> str:
    """The name of a leaf in patterns and messages: its path, such as `layers/attention/q`."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def by_name(tree: Any, is_leaf: Any = None) -> dict[str, Any]:
    """The leaves of a tree by name, in the order of the tree."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)}


def matching(patterns: Collection[str], names: Collection[str], where: str) -> frozenset[str]:
    """The names that match a glob of `patterns` (`*` also matches `/`).

    where: the config key of the patterns, for messages. Raises `UserError` for a pattern that matches no name.
    """
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            raise UserError(f"{where}: {pattern!r} matches no parameter; there are {', '.join(names)}")
    return frozenset(name for name in names if any(matches(pattern, name) for pattern in patterns))


def matches(pattern: str, name: str) -> bool:
    """Whether a glob matches the name of a leaf."""
    return fnmatchcase(name, pattern)


def split(params: Mapping[str, Any], names: Collection[str]) -> tuple[Leaves, Leaves]:
    """Two trees without empty branches: the leaves whose names are not in `names`, and those whose names are."""
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    rest = {name: leaf for name, leaf in flat.items() if name not in names}
    chosen = {name: leaf for name, leaf in flat.items() if name in names}
    return traverse_util.unflatten_dict(rest, sep="/"), traverse_util.unflatten_dict(chosen, sep="/")


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> Leaves:
    """One tree of the leaves of both; the inverse of `split`. No name may be in both."""
    flat_one, flat_other = (traverse_util.flatten_dict(dict(tree), sep="/") for tree in (first, second))
    assert flat_one.keys().isdisjoint(flat_other), sorted(flat_one.keys() & flat_other.keys())
    return traverse_util.unflatten_dict({**flat_one, **flat_other}, sep="/")
