"""How many seeds and which sets a row has, and which runs of this or another work directory it evaluates."""

from pathlib import Path

from cprec_jax import workdir as paths
from cprec_jax.config.evaluate import RUN_KINDS, SEQUENTIAL_KINDS, TITLES, MethodSpec
from cprec_jax.config.root import Config
from cprec_jax.errors import UserError
from cprec_jax.paths import local_path
from cprec_jax.run_key import RunKey, key_of

PATH = "config.evaluate.names"


def runs_of(method: MethodSpec, config: Config, workdir: Path, part: str | None = None) -> list[Path]:
    """The runs that a method of kind `untrained` or `checkpoint` evaluates, one per seed: of this work directory, or of
    the one that its `path` names. A missing run of a further seed is a `UserError`.

    part: the set, where there is one run per set.
    """
    home, name = work_directory_of(method, workdir), str(RunKey(name=name_of_run(method, config), part=part))
    directories = [paths.run_directory(home, seed, name) for seed in range(config.seeds_of_row(method))]
    for directory in directories[1:]:
        if not directory.is_dir():
            raise UserError(
                f"{directory}: not there; `launch.py train` with this config trains it, or set config.train.seeds = 1"
            )
    return directories


def seeds_of(config: Config, row: str) -> int:
    """How many seeds a row has."""
    method = config.evaluate.names[row]
    if method.kind in RUN_KINDS:
        return config.seeds_of_row(method)
    if method.kind in SEQUENTIAL_KINDS:
        return config.evaluate.seeds
    return max((seeds_of(config, member) for member in method.members), default=1)


def sets_of_row(config: Config, row: str) -> tuple[str, ...] | None:
    """The sets that a row can be evaluated on, where it, or a row that it needs, has one run per set; None: any."""
    method = config.evaluate.names[row]
    needed = [*method.members, *([method.init] if method.init not in (None, TITLES) else [])]
    limited = [sets_of_row(config, str(name)) for name in needed]
    if method.kind in RUN_KINDS:
        limited.append(parts_of(method, config))
    limits = [sets for sets in limited if sets is not None]
    return tuple(name for name in limits[0] if all(name in sets for sets in limits)) if limits else None


def parts_of(method: MethodSpec, config: Config) -> tuple[str, ...] | None:
    """The sets of which a method of kind `untrained` or `checkpoint` has a run each; None: one run serves all sets."""
    if method.path is None:
        parts = config.parts_of(config.run_of_row(method)) if config.runs else (None,)
        return None if parts == (None,) else tuple(part for part in parts if part is not None)
    name = name_of_run(method, config)
    keys = [key_of(path) for path in paths.run_directories(work_directory_of(method, Path()))]
    if any(key.name == name and key.part is None for key in keys) or "@" in name:
        return None
    return tuple(dict.fromkeys(key.part for key in keys if key.name == name and key.part is not None)) or None


def work_directory_of(method: MethodSpec, workdir: Path) -> Path:
    """`path` of a method may be another work directory, or that run's own directory."""
    if method.path is None:
        return workdir
    path = local_path(method.path, f"{PATH}: path")
    return path.parents[1] if _is_run(path) else path


def name_of_run(method: MethodSpec, config: Config) -> str:
    """The name of the run that a method of kind `untrained` or `checkpoint` evaluates."""
    if method.path is not None and method.run is None:
        path = local_path(method.path, f"{PATH}: path")
        return path.name if _is_run(path) else paths.CPT
    return config.run_of_row(method)


def _is_run(path: Path) -> bool:
    """Whether a path is that of a run. A work directory may have such a name, too."""
    return path.parent.name == "runs" and not (path / "runs").is_dir()
