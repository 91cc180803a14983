"""Which run a directory of runs is: its name, the set it is fine-tuned on by itself, and its seed."""

from dataclasses import dataclass
from pathlib import Path

from cprec_jax import workdir as paths


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """part: the set, None where the run is not one per set. seed: which of its seeds, from 0."""

    name: str
    part: str | None = None
    seed: int = 0

    def __str__(self) -> str:
        return self.name if self.part is None else f"{self.name}@{self.part}"

    def directory(self, workdir: Path) -> Path:
        return paths.run_directory(workdir, self.seed, str(self))


def key_of(directory: Path) -> RunKey:
    """The run of a directory. Names of runs hold neither `@` nor `.`."""
    run, dot, number = directory.name.rpartition(".seed-")
    if not dot or not number.isdigit():
        run, number = directory.name, "0"
    name, separator, part = run.partition("@")
    return RunKey(name=name, part=part if separator else None, seed=int(number))
