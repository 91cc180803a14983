"""The job `train` against a loop written by hand: each line of metrics is that of its step, from the seed, rows and
rate of that step."""

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.config.train import ScheduleSpec
from cprec_jax.model.decoder import init_params
from cprec_jax.rows import loader
from cprec_jax.train.batches import batches
from cprec_jax.train.objectives.cpt import Cpt
from cprec_jax.train.optimizer import adamw
from cprec_jax.train.schedule import wsa
from cprec_jax.train.state import TrainState
from cprec_jax.train.step import train_step
from tests import road
from tests.run_jobs import make_plan, train

SEED, STEPS, BATCH, MICRO, STABLE = 3, 8, 16, 2, 4
SCHEDULE = {"peak": 0.02, "warmup": 0.25, "anneal": 0.5, "shape": "linear"}
CONFIG = road.config(
    train={
        "seed": SEED,
        "steps": STEPS,
        "global_batch": BATCH,
        "micro_batches": MICRO,
        "milestones": [],
        "log_every": 3,
        "schedule": SCHEDULE,
        "anneal_mixture": {"mixed_share": 0.7},
    }
)


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "runs/cpt/metrics.jsonl").read_text().splitlines()]


def by_hand(workdir: Path) -> list[dict[str, float]]:
    """The metrics of each step, on one device."""
    plan = make_plan(CONFIG, workdir)
    phases = [
        (loader.stream(plan.rows, plan.shares, SEED), range(STABLE)),
        (loader.stream(plan.rows, plan.anneal_shares, SEED, prefix=STABLE), range(STEPS - STABLE)),
    ]
    batches = [[rows[step * BATCH + i] for i in range(BATCH)] for rows, steps in phases for step in steps]
    schedule = wsa(ScheduleSpec(**SCHEDULE), STEPS)  # type: ignore[arg-type]  # mypy takes every field for a number
    optimizer = adamw(plan.train.optimizer, schedule)
    params = jax.jit(functools.partial(init_params, plan.decoder))(jax.random.key(SEED))
    state = TrainState(step=jnp.zeros((), jnp.int32), trained=params, opt_state=optimizer.init(params))
    step = jax.jit(
        functools.partial(
            train_step,
            objective=Cpt(decoder=plan.decoder, loss_chunk=16),
            optimizer=optimizer,
            schedule=schedule,
            micro_batches=MICRO,
            dropout_seed=SEED,
        )
    )
    tokens, found = 0, []
    for number, rows in enumerate(batches):
        batch = {
            name: np.stack([row[name] for row in rows]) for name in ("tokens", "segment_ids", "positions", "loss_mask")
        }
        state, metrics = step(state, {}, batch)
        tokens += int((batch["segment_ids"] > 0).sum())
        lr = SCHEDULE["peak"] * [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25][number]  # type: ignore[operator]
        values = {name: float(metrics[name]) for name in ("loss", "grad_norm")}
        found.append({"step": number + 1, **values, "lr": lr, "tokens": tokens})
    return found


def test_each_line_is_that_of_its_step(workdir: Path) -> None:
    train(CONFIG, workdir)
    expected = by_hand(workdir)
    found = lines(workdir)
    assert [line["step"] for line in found] == [3, 6, STEPS]
    for line in found:
        wanted = expected[line["step"] - 1]
        assert {name: line[name] for name in wanted} == pytest.approx(wanted, rel=1e-4), line["step"]
    losses = [line["loss"] for line in expected]
    assert min(abs(a - b) for a, b in itertools.pairwise(losses)) > 1e-3  # so that another step's would not do


def test_rows_go_on_where_they_stopped(workdir: Path) -> None:
    """From any step on, in either phase and at their border, the batches are those of a run that never stopped."""
    plan = make_plan(CONFIG, workdir)
    held = range(BATCH)

    def identity(batch: dict[str, np.ndarray]) -> list[tuple[int, int]]:
        return list(zip(batch["source"].tolist(), batch["row"].tolist(), strict=True))

    whole = [identity(batch) for batch in batches(plan, 0, held)]
    assert len(whole) == STEPS
    for first in range(1, STEPS + 1):
        assert [identity(batch) for batch in batches(plan, first, held)] == whole[first:]
