"""Weights & Biases: a run's metrics by training step. WANDB_MODE=offline needs neither an account nor the network."""

import os
import uuid
from collections.abc import Mapping
from typing import Any

from cprec_jax.errors import UserError
from cprec_jax.train.loggers.logger import LoggedRun

ID = "wandb-id.txt"  # in the run's directory, so that a resumed run keeps its W&B id
PROJECT = "cprec_jax"


class Wandb:
    """One W&B run per run, in the project $WANDB_PROJECT (default: `PROJECT`), with its files in RUN/wandb.

    W&B's own step cannot decrease, and a resumed run logs some steps again. So the x axis is a metric `step`.
    """

    def __init__(self, run: LoggedRun):
        try:
            import wandb
        except ImportError:
            raise UserError(
                "config.train.loggers: 'wandb' is not installed; run `pip install -r requirements-wandb.txt`, or "
                "leave it out"
            ) from None
        path = run.directory / ID
        if not path.exists():
            path.write_text(uuid.uuid4().hex[:16], encoding="utf-8")
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=path.read_text(encoding="utf-8"),
            name=run.name,
            resume="allow",
            dir=str(run.directory),
            config=dict(run.facts),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        self._run.log({"step": step, **values, "seconds": seconds})

    def close(self) -> None:
        self._run.finish()
