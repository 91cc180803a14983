"""TensorBoard events in RUN/events."""

from collections.abc import Mapping

from tensorboard.summary import Writer

from cprec_jax.train.loggers.logger import LoggedRun


class TensorBoard:
    """Writes scalars by step. Events of an interrupted attempt stay; TensorBoard shows the newest event of a step."""

    def __init__(self, run: LoggedRun):
        self._events = Writer(str(run.directory / "events"))

    def write(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()
