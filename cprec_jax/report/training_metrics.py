"""Reads the metrics.jsonl of runs."""

import json
from pathlib import Path

from cprec_jax.errors import UserError
from cprec_jax.workdir import run_directories


def read_metrics(workdir: Path) -> dict[str, list[dict[str, float]]]:
    """metrics.jsonl of every run by its name, in order of steps; runs without a logged step are left out.

    A last line cut off by a kill is skipped; any other line that is no JSON object with a `step` is a `UserError`.
    """
    read = {run.name: _metrics_of(path) for run in run_directories(workdir) if (path := run / "metrics.jsonl").exists()}
    return {name: records for name, records in read.items() if records}


def _metrics_of(path: Path) -> list[dict[str, float]]:
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            numbers = {key: float(value) for key, value in record.items() if isinstance(value, int | float)}
            records.append({**numbers, "step": int(record["step"])})
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise UserError(
                    f"{path}: line {number} is damaged; delete that line, or train again with `launch.py train`"
                ) from None
    return sorted(records, key=lambda record: record["step"])
