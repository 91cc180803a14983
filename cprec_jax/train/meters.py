"""What a run reports: metrics.jsonl (one JSON object a logged step) and TensorBoard events."""

import json
import os
import time
from pathlib import Path
from typing import Any


class Meters:
    """Appends to RUN/metrics.jsonl and to TensorBoard events.

    A resumed run first drops the lines after the step it goes on from, so that the file reads like that of an unbroken run.
    """

    def __init__(self, directory: Path, first_step: int, seconds_before: float = 0.0):
        self._path = directory / "metrics.jsonl"
        self._seconds_before = seconds_before
        self._start = time.monotonic()
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= first_step]
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            os.replace(temporary, self._path)
        self._stream = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run
        from tensorboard.summary import Writer

        self._events = Writer(str(directory / "events"))

    @property
    def seconds(self) -> float:
        """Wall seconds of this run, those before earlier interruptions included."""
        return self._seconds_before + time.monotonic() - self._start

    def write(self, step: int, values: dict[str, float]) -> None:
        record: dict[str, Any] = {"step": step, **values, "seconds": round(self.seconds, 3), "time": round(time.time(), 3)}
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._stream.close()
        self._events.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut off by a kill
        return float("inf")
