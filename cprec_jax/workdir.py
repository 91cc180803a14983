"""Every path of a work directory, and nothing else."""

from pathlib import Path

CPT = "cpt"  # the run that a config without names for its runs means
REPLACED = ".replaced"  # ends the name of a run that was set aside
ADAPTER = ".adapter"  # ends the name of an export that holds an adapter
DESCRIPTION = "config.json"  # of a run: what others need to load it
CHECKPOINTS = "checkpoints"  # of a run: a directory per step
METRICS = "metrics.jsonl"  # of a run: its logged steps
ATTEMPTS = "attempts.jsonl"  # of a run: where the time of each attempt went
FILE_HASHES = ".file-hashes.json"
RESULTS_FILE = "results.json"  # of a result: its record
RANKS_FILE, SLICES_FILE, EXAMPLES_FILE = "ranks.parquet", "slices.parquet", "examples.json"  # of a result, beside that
LOCK = ".lock"
TOKEN = ".token"  # what all processes of a job must see


def corpus_directory(workdir: Path) -> Path:
    return workdir / "corpus"


def rows_directory(workdir: Path, stage: str = CPT) -> Path:
    return workdir / "rows" / stage


def tokenizer_directory(workdir: Path, stage: str = CPT) -> Path:
    """The tokenizer that the rows of a stage were made with."""
    return rows_directory(workdir, stage) / "tokenizer"


def run_directory(workdir: Path, seed: int = 0, name: str = CPT) -> Path:
    """A run: runs/NAME, and of further seeds runs/NAME.seed-1, ..."""
    return workdir / "runs" / (name if seed == 0 else f"{name}.seed-{seed}")


def run_directories(workdir: Path) -> list[Path]:
    """All runs that are there, finished or not; those set aside are none."""
    runs = workdir / "runs"
    return sorted(
        p for p in runs.glob("*") if p.is_dir() and not p.name.startswith(".") and not p.name.endswith(REPLACED)
    )


def saved_steps(run: Path) -> list[int]:
    """The steps of the checkpoints of a run."""
    return sorted(int(path.name) for path in (run / CHECKPOINTS).glob("*") if path.name.isdigit())


def grid_directory(run: Path, point: int) -> Path:
    """A point of the grid of a run, until one of them is chosen."""
    return run.parent / f".{run.name}.grid" / str(point)


def name_of_run(workdir: Path, run: Path) -> str:
    """The path of a run, or of a point of its grid, among the runs of its work directory."""
    return run.relative_to(run_directory(workdir).parent).as_posix()


def replaced_directory(run: Path) -> Path:
    """Where a run is until its successor is done."""
    return run.with_name(run.name + REPLACED)


def results_directory(workdir: Path, split: str) -> Path:
    """The results of a split: WORKDIR/results, of the validation split WORKDIR/results-valid, so that neither replaces
    the other."""
    return workdir / ("results" if split == "test" else f"results-{split}")


def result_directory(workdir: Path, split: str, name: str) -> Path:
    return results_directory(workdir, split) / name


def cell_directory(workdir: Path, split: str, row: str, set_name: str, seed: int) -> Path:
    """The ranks of one row, set and seed: WORKDIR/cells/ROW/SET.seed-0, of the validation split in
    WORKDIR/cells-valid."""
    return workdir / ("cells" if split == "test" else f"cells-{split}") / row / f"{set_name}.seed-{seed}"


def pieces_directory(cell: Path, attempt: str) -> Path:
    """Where processes that rank a cell together leave their pieces of it, in one attempt."""
    return cell.with_name(f".{cell.name}.{attempt}.pieces")


def pieces_directories(row: Path) -> list[Path]:
    """Those of all attempts at the cells of a row."""
    return sorted(row.glob(".*.pieces"))


def trained_directory(workdir: Path, row: str, set_name: str, seed: int) -> Path:
    """What evaluation trained for one row, set and seed."""
    return workdir / "trained" / f"{row}@{set_name}.seed-{seed}"


def export_directory(workdir: Path, name: str = CPT) -> Path:
    return workdir / "export" / name


def logs_directory(workdir: Path) -> Path:
    """What the processes of a job printed, and how far each has come."""
    return workdir / "logs"


def adapter_directory(workdir: Path, name: str) -> Path:
    """The export of a run's adapter alone."""
    return workdir / "export" / f"{name}{ADAPTER}"


def report_directory(workdir: Path, split: str) -> Path:
    """WORKDIR/report; for results of the validation split WORKDIR/report-valid."""
    return workdir / ("report" if split == "test" else f"report-{split}")


def result_files(workdir: Path, split: str = "test") -> list[Path]:
    """Every results.json of a split, by folder name."""
    paths = sorted(results_directory(workdir, split).glob(f"*/{RESULTS_FILE}"))
    return [path for path in paths if not path.parent.name.startswith(".")]  # left over by a kill
