"""How many seeds a row has, and which runs a row of a language model asks: of this work directory, or of another."""

from pathlib import Path

from cprec_jax import workdir as paths
from cprec_jax.config.evaluate import SEQUENTIAL_KINDS, MethodSpec
from cprec_jax.config.root import Config
from cprec_jax.errors import UserError
from cprec_jax.paths import local_path

PATH = "config.evaluate.names"


def runs_of(method: MethodSpec, config: Config, workdir: Path) -> list[Path]:
    """The runs that a method of kind `untrained` or `checkpoint` asks, one per seed: of this work directory, or of the one that its `path`
    names. One of a further seed that is missing is a `UserError`.
    """
    home, name = work_directory_of(method, workdir), _name(method, config)
    found = [paths.run_directory(home, seed, name) for seed in range(config.seeds_of_row(method))]
    for directory in found[1:]:
        if not directory.is_dir():
            raise UserError(f"{directory}: not there; `launch.py train` with this config trains it, or set config.train.seeds = 1")
    return found


def seeds_of(config: Config, row: str) -> int:
    """How many seeds a row has."""
    method = config.evaluate.names[row]
    if method.kind in ("untrained", "checkpoint"):
        return config.seeds_of_row(method)
    if method.kind in SEQUENTIAL_KINDS:
        return config.evaluate.seeds
    return max((seeds_of(config, member) for member in method.members), default=1)


def work_directory_of(method: MethodSpec, workdir: Path) -> Path:
    """`path` of a method may be another work directory, or that run's own directory."""
    if method.path is None:
        return workdir
    path = local_path(method.path, f"{PATH}: path")
    return path.parents[1] if _is_run(path) else path


def _name(method: MethodSpec, config: Config) -> str:
    if method.path is not None and method.run is None:
        path = local_path(method.path, f"{PATH}: path")
        return path.name if _is_run(path) else paths.CPT
    return config.run_of_row(method)


def _is_run(path: Path) -> bool:
    """Whether a path is that of a run. A work directory may have such a name, too."""
    return path.parent.name == "runs" and not (path / "runs").is_dir()
