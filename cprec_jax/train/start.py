"""The checkpoint of another run that a run starts from."""

from dataclasses import dataclass
from pathlib import Path

from cprec_jax.artefact import MANIFEST, read_json
from cprec_jax.config.run import RunSpec, StartSpec
from cprec_jax.errors import UserError
from cprec_jax.train.description import read_description
from cprec_jax.train.schedule import phases


@dataclass(frozen=True, kw_only=True)
class Start:
    """A checkpoint of the run `directory`. The new run takes its parameters, or, with `goes_on`, its whole state."""

    directory: Path
    step: int
    goes_on: bool


def start_of(spec: RunSpec, parent: Path, name: str) -> Start:
    """The checkpoint of the run `parent` that `spec` starts from. name: of the new run, for messages.

    Raises `UserError` for a run that goes on from a step outside the stable phase of `parent`.
    """
    manifest = read_json(parent / MANIFEST, "train")
    last = int(manifest["step"])
    if not spec.goes_on:
        return Start(directory=parent, step=int(manifest.get("selected", last)), goes_on=False)
    assert isinstance(spec.start, StartSpec)
    step = spec.start.step if spec.start.step is not None else round((spec.start.fraction or 0.0) * last)
    first = int(manifest.get("first", 0))  # of a run that itself went on with another
    begin, end = (first + boundary for boundary in phases(read_description(parent)["train"].schedule, last - first))
    if not begin <= step <= end:
        raise UserError(
            f"config.runs.{name}.start: step {step} of {parent.name} lies outside its stable phase, steps {begin} to "
            f"{end}; a run can only go on from a step of that phase"
        )
    return Start(directory=parent, step=step, goes_on=True)
