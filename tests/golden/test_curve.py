"""A short run of the whole road on a synthetic corpus: what is read, in which order, and the loss of 30 steps, to
1e-4."""

import json
from pathlib import Path

from tests import road
from tests.golden.values import check
from tests.run_jobs import train


def test_a_loss_curve(workdir: Path) -> None:
    """Dropout, two micro-batches, all three phases of the schedule, another mixture in the last one."""
    train(
        road.config(
            train={
                "steps": 30,
                "global_batch": 16,
                "micro_batches": 2,
                "milestones": [],
                "schedule": {"peak": 0.01, "warmup": 0.1, "anneal": 0.3},
                "anneal_mixture": {"mixed_share": 0.6},
            }
        ),
        workdir,
    )
    rows = json.loads((workdir / "rows/cpt/manifest.json").read_text())["rows_hash"]
    lines = [json.loads(line) for line in (workdir / "runs/cpt/metrics.jsonl").read_text().splitlines()]
    # First the rows: with other rows the curve says nothing about training, so look at `prepare` and `pack`.
    check(
        "loss curve",
        {"rows_hash": rows, "tokens": [line["tokens"] for line in lines], "loss": [line["loss"] for line in lines]},
        1e-4,
    )
