"""The benchmark of `prepare`: its generator, and that it checks and writes what it promises."""

import json
from pathlib import Path

import pytest

from benchmarks import interactions, measure, prepare


def test_generated_files_hold_what_was_asked_and_are_always_the_same(tmp_path: Path) -> None:
    interactions.generate(tmp_path / "a", 40_000)
    interactions.generate(tmp_path / "b", 40_000)
    for name in interactions.ROLES:
        lines = (tmp_path / "a" / f"{name}.csv").read_text().splitlines()
        assert len(lines) == 10_001 and lines[0].replace('"', "") == "user_id,item_id,timestamp"
        assert len(set(lines)) < len(lines)  # there are duplicates to remove
        items = {line.partition(",")[0] for line in (tmp_path / "a" / f"{name}_items.csv").read_text().splitlines()[1:]}
        assert len(items) == 833 and {line.split(",")[1] for line in lines[1:]} <= items
        assert (tmp_path / "a" / f"{name}.csv").read_bytes() == (tmp_path / "b" / f"{name}.csv").read_bytes()


def test_a_failing_command_shows_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"exit code 3\nsorry"):
        measure.run(["sh", "-c", "echo sorry; exit 3"], tmp_path)


@pytest.mark.slow
def test_names_and_equality_on_little_data(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    prepare.main(["--interactions", "200000", "--repeats", "1", "--work", str(tmp_path), "--json", str(tmp_path / "out.json")])
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())}
    named = {"prepare_speedup_vs_pandas", "prepare_memory_share_of_pandas", "prepare_rows_per_second"}
    assert named | {"prepare_peak_memory", "prepare_peak_disk"} == set(rows)
    assert all(row["value"] > 0 for row in rows.values())
