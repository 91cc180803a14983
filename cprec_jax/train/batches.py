"""The batches of a run, on the host and on the devices."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from cprec_jax.model.attention import PackedAttendFn
from cprec_jax.parallel import global_batch, rules
from cprec_jax.rows import loader
from cprec_jax.train.actions import Stop
from cprec_jax.train.loop import Batch
from cprec_jax.train.objectives.objective import Objective
from cprec_jax.train.prepared_run import PreparedRun
from cprec_jax.train.schedule import phases


def batches(
    prepared: PreparedRun,
    first_step: int,
    held: Sequence[int],
    more: Callable[[Mapping[str, Any]], dict[str, np.ndarray]] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches on the host of all steps after `first_step`. The annealing phase may have its own mixture.

    Args:
      held: the rows of the global batch that are read, ascending.
      more: an objective's `row_columns`.

    Each mixture is a stream of its own. Its elements are counted from the step where it begins: 0, the step at which
    the run goes on with another one, or the first annealing step.
    """
    boundary = prepared.first + phases(prepared.train.schedule, prepared.total_steps - prepared.first)[1]
    if (prepared.anneal_shares, prepared.anneal_limits) == (prepared.shares, prepared.limits):
        boundary = prepared.total_steps
    read = functools.partial(
        loader.batches, rows=held, global_batch=prepared.train.global_batch, workers=prepared.train.loader_workers
    )
    if first_step < boundary:
        begin = prepared.first if prepared.first and not prepared.follows else 0
        rows = loader.stream(
            prepared.rows, prepared.shares, prepared.train.seed, prefix=begin, limits=prepared.limits, more=more
        )
        yield from read(rows, first_step=first_step - begin, last_step=boundary - begin)
    if boundary < prepared.total_steps:
        shares, limits = prepared.anneal_shares, prepared.anneal_limits
        rows = loader.stream(prepared.rows, shares, prepared.train.seed, prefix=boundary, limits=limits, more=more)
        yield from read(
            rows, first_step=max(first_step, boundary) - boundary, last_step=prepared.total_steps - boundary
        )


def global_batches(
    prepared: PreparedRun, mesh: jax.sharding.Mesh, first_step: int, last_step: int, objective: Objective, stop: Stop
) -> Iterator[Batch]:
    """The batches of the steps after `first_step` up to `last_step`, on the devices.

    The attention checks each batch on the host; `stop` adds its column.
    """
    size = prepared.train.global_batch
    sharding = rules.batch_sharding(mesh, size)
    held = global_batch.rows_held(sharding, size)
    attend = cast(PackedAttendFn, prepared.decoder.attend)
    for step, rows in enumerate(
        batches(prepared, first_step, held.tolist(), objective.row_columns), start=first_step + 1
    ):
        if step > last_step:
            return
        attend.check_batch(rows)
        arrays = global_batch.assemble({name: rows[name] for name in objective.columns}, held, sharding, size)
        arrays |= stop.arrays(mesh)
        yield Batch(step=step, rows=rows, arrays=arrays)
