"""The benchmark of the decoder runs, checks its own equality, and writes the promised names."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import forward


@pytest.mark.torch
def test_names_and_equality_on_a_small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    sizes = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
    }
    case = forward.CASES["llama25m"]
    monkeypatch.setitem(
        forward.CASES,
        "llama25m",
        dataclasses.replace(case, config=dataclasses.replace(case.config, **sizes), length=32),
    )
    forward.main(["--quick", "--no-compile", "--device", "cpu", "--repeats", "2", "--json", str(tmp_path / "out.json")])
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())}
    assert set(rows) == {
        "forward_speedup_vs_torch_eager",
        "train_speedup_vs_torch_eager",
        "forward_seconds",
        "train_seconds",
        "max_logit_difference",
        "max_gradient_difference",
    }
    assert all(set(row) == {"name", "value", "unit", "against", "detail"} for row in rows.values())
    assert 0 < rows["max_gradient_difference"]["value"] < 1e-4
    assert rows["train_speedup_vs_torch_eager"]["value"] > 0


def test_sizes_are_those_that_are_promised() -> None:
    sizes = {name: forward.count_params(case.config) / 1e6 for name, case in forward.CASES.items()}
    assert abs(sizes["llama25m"] - 25.6) < 0.1 and abs(sizes["qwen05b"] - 494.0) < 0.1
    assert forward.CASES["llama25m"].length == 512 and forward.CASES["qwen05b"].length == 2048
