"""The protocol of the loggers of a run's metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Logger(Protocol):
    """Takes the metrics of steps, in ascending order."""

    def write(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Log one step. values: metrics by name. seconds: wall time of the run up to the step."""
        ...

    def close(self) -> None:
        """Flush and close; no `write` follows."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """What loggers know of a run.

    directory: the run's.
    first_step: the step it starts or resumes after; later steps that an earlier attempt logged are logged again.
    name: for display.
    facts: the settings and the hash of the inputs of the run, as JSON.
    """

    directory: Path
    first_step: int
    name: str
    facts: Mapping[str, Any]
