"""metrics.jsonl: one JSON object per logged step, which the report reads."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from cprec_jax.train.loggers.logger import LoggedRun
from cprec_jax.workdir import METRICS


class Jsonl:
    """Appends to RUN/metrics.jsonl.

    A resumed run first drops the lines after the step it resumes from, so that the file has each step once.
    """

    def __init__(self, run: LoggedRun):
        path = run.directory / METRICS
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= run.first_step]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            os.replace(temporary, path)
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open until the run ends

    def write(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        record: dict[str, Any] = {"step": step, **values, "seconds": round(seconds, 3), "time": round(time.time(), 3)}
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut off by a kill
        return float("inf")
