"""Where a run's metrics go: one small protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Logger(Protocol):
    """Takes the metrics of steps, in ascending order."""

    def write(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """values: of one step, by name. seconds: wall time of the run up to then."""
        ...

    def close(self) -> None:
        """Nothing is written after it."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """What loggers may know about a run.

    directory: where it is. first_step: after which it starts or goes on; what earlier attempts wrote of later steps is
    written again.
    name: for people. facts: what the run is made from, as JSON.
    """

    directory: Path
    first_step: int
    name: str
    facts: Mapping[str, Any]
