"""`prepare` on many generated interactions, and side by side with the straightforward pandas script on a tenth of them.

    python benchmarks/prepare.py [--quick] [--json FILE] [--interactions N] [--memory-limit 4GB] [--repeats 3]
    [--no-pandas] [--work DIR]

Needs requirements-bench.txt for the comparison. Every measurement is a process of its own: `launch.py prepare` from CSV
files to a corpus, with the 5-core filter and at most 10,000 test users a set, as in
configs/corpora/amazon2023_seven.py; `benchmarks/prepare_pandas.py` for pandas. In the comparison no candidates are
drawn, because the pandas script draws none; the large run draws them. That both made the same corpus is checked value
by value (`benchmarks/prepare_equality.py`) after every pair. The generated files (`benchmarks/interactions.py`) are not
part of any measurement.

Names: prepare_speedup_vs_pandas (by the clock), prepare_core_seconds_vs_pandas, prepare_memory_share_of_pandas (smaller
is better), prepare_rows_per_second, prepare_peak_memory and prepare_peak_disk (of the large run; smaller is better).
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import interactions, measure
from benchmarks.prepare_equality import differences

ROOT = Path(__file__).resolve().parents[1]
MAX_USERS = {"valid": 2_000, "test": 10_000}


def corpus_section(data: Path, memory_limit: str, candidates: bool) -> dict[str, Any]:
    """`config.corpus` for generated files."""
    sources = [
        {"name": name, "role": role, "platform": "made-up", "interactions": f"{name}.csv", "items": f"{name}_items.csv"}
        for name, role in interactions.ROLES.items()
    ]
    limits = {f"max_{split}_users": most for split, most in MAX_USERS.items()}
    section = {"root": str(data), "sources": sources, "k_core": 5, **limits}
    return section | {"memory_limit": memory_limit} | ({} if candidates else {"candidates": {"protocols": ()}})


def write_config(path: Path, corpus: dict[str, Any]) -> None:
    path.write_text(f"def get_config():\n    return {{'corpus': {corpus!r}}}\n", encoding="utf-8")


def launch_prepare(data: Path, work: Path, memory_limit: str, candidates: bool) -> tuple[measure.Run, Path]:
    """`launch.py prepare`, and the work directory that it filled."""
    config = work / "config.py"
    write_config(config, corpus_section(data, memory_limit, candidates))
    folder = work / "ours"
    command = [sys.executable, str(ROOT / "launch.py"), "prepare", f"--config={config}", f"--workdir={folder}"]
    return measure.run(command, folder, {"JAX_PLATFORMS": "cpu"}), folder


def pandas_script(data: Path, work: Path) -> tuple[measure.Run, Path]:
    folder = work / "pandas"
    folder.mkdir()
    return measure.run(
        [sys.executable, str(ROOT / "benchmarks" / "prepare_pandas.py"), str(data), str(folder)], folder
    ), folder


def compare(total: int, repeats: int, memory_limit: str, work: Path, results: measure.Results) -> None:
    """Paired runs, ours and pandas in turn; unequal corpora are a RuntimeError."""
    data = work / "tenth"
    interactions.generate(data, total)
    pairs = []
    for _ in range(repeats):
        (mine, corpus), (pandas_run, tables) = (
            launch_prepare(data, work, memory_limit, False),
            pandas_script(data, work),
        )
        if unequal := differences(corpus / "corpus", tables):
            raise RuntimeError("prepare and pandas made different corpora: " + "; ".join(unequal))
        rounds = json.loads((corpus / "corpus" / "manifest.json").read_text(encoding="utf-8"))["filters"][
            "k_core_rounds"
        ]
        shutil.rmtree(corpus)
        shutil.rmtree(tables)
        pairs.append((mine, pandas_run))
        print(
            f"  ours {mine.seconds:.1f} s (all cores {mine.cpu_seconds:.1f} s), {mine.memory_mib:.0f} MiB; "
            f"pandas {pandas_run.seconds:.1f} s ({pandas_run.cpu_seconds:.1f} s), {pandas_run.memory_mib:.0f} MiB; "
            "equal",
            flush=True,
        )
    shutil.rmtree(data)
    against = "straightforward pandas script"
    detail = f"{total:,} interactions, {repeats} pairs, median; k-core in {rounds} rounds; memory_limit {memory_limit}"
    results.add(
        "prepare_speedup_vs_pandas", statistics.median(b.seconds / a.seconds for a, b in pairs), "x", against, detail
    )
    cores = statistics.median(b.cpu_seconds / a.cpu_seconds for a, b in pairs)
    results.add("prepare_core_seconds_vs_pandas", cores, "x", against, f"{detail}; user and system time of all cores")
    share = statistics.median(a.memory_mib / b.memory_mib for a, b in pairs)
    results.add("prepare_memory_share_of_pandas", share, "x", against, f"{detail}; smaller is better")


def large(total: int, memory_limit: str, work: Path, results: measure.Results) -> None:
    data = work / "whole"
    interactions.generate(data, total)
    read = measure.folder_bytes(data) / 2**30
    run, folder = launch_prepare(data, work, memory_limit, True)
    manifest = json.loads((folder / "corpus" / "manifest.json").read_text(encoding="utf-8"))
    shutil.rmtree(folder)
    shutil.rmtree(data)
    kept = sum(counts["after k-core"]["interactions"] for counts in manifest["counts"].values())
    contents = (
        f"{manifest['n_items']:,} items, {kept:,} interactions kept, {manifest['mixed']['users']:,} mixed sequences"
    )
    speed = f"{total:,} interactions ({read:.2f} GiB of CSV) in {run.seconds:.0f} s"
    detail = f"{speed}, memory_limit {memory_limit}, {contents}"
    results.add("prepare_rows_per_second", total / run.seconds, "interactions/s", "nothing", detail)
    results.add(
        "prepare_peak_memory",
        run.memory_mib / 1024,
        "GiB",
        "nothing",
        "resident set of the whole process; smaller is better",
    )
    results.add(
        "prepare_peak_disk", run.disk_mib / 1024, "GiB", "nothing", "files it wrote, spill included; smaller is better"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under two minutes on two cores")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument(
        "--interactions", type=int, help="of the large run; the comparison takes a tenth (default 40,000,000)"
    )
    parser.add_argument("--memory-limit", default="4GB", help="config.corpus.memory_limit")
    parser.add_argument("--repeats", type=int, help="pairs of the comparison (default 3)")
    parser.add_argument("--no-pandas", action="store_true", help="only the large run")
    parser.add_argument("--work", type=Path, help="folder for generated files and corpora (default: a temporary one)")
    options = parser.parse_args(arguments)
    total = options.interactions or (1_000_000 if options.quick else 40_000_000)
    tenth = 500_000 if options.quick and not options.interactions else total // 10
    print(measure.machine(), flush=True)
    results = measure.Results()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        if not options.no_pandas:
            compare(tenth, options.repeats or (1 if options.quick else 3), options.memory_limit, Path(folder), results)
        large(total, options.memory_limit, Path(folder), results)
    results.write(options.json)


if __name__ == "__main__":
    main()
