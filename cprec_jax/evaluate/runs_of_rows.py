"""Which runs a row of a language model asks: of this work directory, or of another."""

from pathlib import Path

from cprec_jax import workdir as paths
from cprec_jax.config.evaluate import MethodSpec
from cprec_jax.errors import UserError
from cprec_jax.paths import local_path

PATH = "config.evaluate.names"


def runs_of(method: MethodSpec, workdir: Path, seeds: int) -> list[Path]:
    """The runs that a method of kind `untrained` or `checkpoint` asks: of this work directory, or of the one that its `path` names.

    One of a further seed that is missing is a `UserError`.
    """
    found = [paths.run_directory(work_directory_of(method, workdir), seed) for seed in range(seeds)]
    for directory in found[1:]:
        if not directory.is_dir():
            raise UserError(f"{directory}: not there; `launch.py train` with this config trains it, or set config.train.seeds = 1")
    return found


def work_directory_of(method: MethodSpec, workdir: Path) -> Path:
    """`path` of a method may be another work directory, or that run's own directory."""
    if method.path is None:
        return workdir
    path = local_path(method.path, f"{PATH}: path")
    inside = path.parts[-2:] == ("runs", paths.CPT) and not paths.run_directory(path).is_dir()  # a work directory may have that name
    return path.parents[1] if inside else path
