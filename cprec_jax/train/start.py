"""Where a run starts that starts from another one."""

from dataclasses import dataclass
from pathlib import Path

from cprec_jax.artefact import MANIFEST, read_json
from cprec_jax.config.run import RunSpec, StartSpec
from cprec_jax.errors import UserError
from cprec_jax.train.description import read_description
from cprec_jax.train.schedule import phases


@dataclass(frozen=True, kw_only=True)
class Start:
    """A checkpoint of the run `directory`: its parameters, or, where the new run goes on with it, its whole state."""

    directory: Path
    step: int
    goes_on: bool


def start_of(spec: RunSpec, parent: Path, name: str) -> Start:
    """What a run starts from. A step outside the stable phase of the other, where there is nothing to go on with, is a
    `UserError`."""
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
            f"{end}; "
            "a run can only go on from there"
        )
    return Start(directory=parent, step=step, goes_on=True)
