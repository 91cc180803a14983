"""The benchmark of the catalogue loss runs, checks its own equality, and writes the promised names."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import catalogue_loss
from benchmarks.forward import CASES


@pytest.mark.slow
def test_names_and_equality_on_a_small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["qwen05b"]
    sizes = {
        "vocab_size": 8192,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
    }
    small = dataclasses.replace(case, config=dataclasses.replace(case.config, num_layers=2, **sizes))
    monkeypatch.setitem(catalogue_loss.MODELS, "qwen05b", small)
    monkeypatch.setattr(catalogue_loss, "SIZES", {"8k": (8192, 16), "152k": (9000, 24)})
    monkeypatch.setattr(catalogue_loss, "SEEN_ROWS", 20)
    catalogue_loss.main(["--quick", "--layers", "1", "--shared", str(tmp_path), "--json", str(tmp_path / "out.json")])
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())}
    per_size = (
        "catalogue_speedup_vs_full_head",
        "catalogue_speedup_vs_mask",
        "catalogue_seconds",
        "max_gradient_difference",
    )
    named = {f"{name}_{size}" for name in (*per_size, "columns_ms_per_row") for size in ("8k", "152k")}
    assert set(rows) == named | {"step_speedup_vs_full_head", "step_seconds"}
    assert all(set(row) == {"name", "value", "unit", "against", "detail"} for row in rows.values())
    assert all(0 < rows[f"max_gradient_difference_{size}"]["value"] < 1e-4 for size in ("8k", "152k"))
    assert "made-up" in rows["columns_ms_per_row_8k"]["detail"]


def test_rows_hold_whole_items_of_users_in_order() -> None:
    import numpy as np

    from tests.train.catalogues import catalogue_of

    catalogue = catalogue_of([(1,), (2, 3), (4, 5, 6), tuple(range(50)) * 11])
    users = [[0, 1, 2] * 60, [2, 3, 1]]  # item 3 fits no row
    rows = catalogue_loss.pack(catalogue, np.array([60, 61], np.int32), users)
    items = np.concatenate([row["items"] for row in rows])
    assert (
        items[items > 0].tolist()
        == [item + 1 for user in users for item in user if item != 3][: np.count_nonzero(items)]
    )
    for row in rows:
        assert len(row["tokens"]) == len(row["loss"]) == 512 and row["lengths"].sum() <= 512
        assert np.count_nonzero(row["items"] == 0) == len(row["lengths"])
