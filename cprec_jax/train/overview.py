"""The table of parameters at the start of a run: what is trained, leaf by leaf."""

import math
from collections.abc import Mapping
from typing import Any

from cprec_jax.config.train import OptimizerSpec
from cprec_jax.train.leaves import by_name, matching
from cprec_jax.train.matrices import Axes
from cprec_jax.train.optimizer import WHERE, is_decayed, updater


def overview(shapes: Any, axes: Axes, frozen: frozenset[str], spec: OptimizerSpec) -> str:
    """Parameters per updater, then a line per leaf: name, shape, number of parameters, updater, weight decay.

    Args:
      shapes: of all leaves (`jax.ShapeDtypeStruct`).
      axes: their logical axes by name.
      frozen: the names of the leaves that are not trained.
    """
    sizes = {name: leaf.shape for name, leaf in by_name(shapes).items()}
    chosen = (
        None if spec.decayed is None else matching(spec.decayed, [name for name in sizes if name not in frozen], WHERE)
    )
    owners = {name: "frozen" if name in frozen else updater(spec, axes[name]) for name in sizes}
    rows = []
    for name, shape in sizes.items():
        decays = name not in frozen and spec.weight_decay > 0 and is_decayed(name, chosen)
        text = owners[name] + (", decays" if decays else "")
        rows.append((name, "x".join(map(str, shape)), f"{math.prod(shape):,}", text))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"  {row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}" for row in rows]
    return "\n".join([f"parameters: {_by_owner(sizes, owners)}", *lines])


def _by_owner(sizes: Mapping[str, tuple[int, ...]], owners: Mapping[str, str]) -> str:
    totals: dict[str, int] = {}
    for name, owner in owners.items():
        totals[owner] = totals.get(owner, 0) + math.prod(sizes[name])
    return ", ".join(f"{total:,} {owner}" for owner, total in totals.items())
