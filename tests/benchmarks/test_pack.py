"""The benchmark of `pack` writes what it promises, and both sides get the same text."""

import json
from pathlib import Path

import pytest

from benchmarks import pack


@pytest.mark.slow
def test_names_and_tokens_on_little_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets")
    pack.main(
        [
            "--interactions",
            "20000",
            "--repeats",
            "1",
            "--row-length",
            "256",
            "--work",
            str(tmp_path),
            "--json",
            str(tmp_path / "o.json"),
        ]
    )
    rows = {row["name"]: row for row in json.loads((tmp_path / "o.json").read_text())}
    assert set(rows) == {"pack_speedup_vs_hf", "row_fill", "pack_tokens_per_second", "pack_peak_memory"}
    assert rows["row_fill"]["value"] > 0.9
    n_launch, n_datasets = (int(line.split()[1]) for line in capsys.readouterr().out.splitlines()[1:3])
    assert abs(n_launch - n_datasets) < 0.05 * n_datasets
