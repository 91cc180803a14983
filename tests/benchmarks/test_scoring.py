"""The benchmark of scoring runs, checks its own equality, and writes the promised names."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import scoring


@pytest.mark.slow
def test_names_and_equality_on_a_small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
    }
    monkeypatch.setattr(scoring, "CONFIG", dataclasses.replace(scoring.CONFIG, vocab_size=512, **sizes))
    monkeypatch.setattr(scoring, "PROMPT", 20)
    monkeypatch.setattr(scoring, "CATALOGUES", {"3k": ("absent.tsv.gz", 80), "17k": ("absent.tsv.gz", 200)})
    scoring.main(["--quick", "--no-torch", "--json", str(tmp_path / "out.json"), "--data", str(tmp_path)])
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())}
    named = (
        "shared_prefix_speedup_20",
        "shared_prefix_speedup_100",
        "trie_speedup_3k",
        "trie_speedup_17k",
        "max_score_difference",
    )
    assert set(named) <= set(rows)
    assert all(set(row) == {"name", "value", "unit", "against", "detail"} for row in rows.values())
    assert 0 < rows["max_score_difference"]["value"] < 1e-4
    assert "made-up" in rows["trie_speedup_3k"]["detail"] and "from 16 titles" in rows["trie_speedup_3k"]["detail"]


def test_made_up_titles_are_always_the_same(tmp_path: Path) -> None:
    titles, made_up = scoring.read_titles(tmp_path / "absent.tsv.gz", 500)
    assert made_up and titles == scoring.read_titles(tmp_path / "absent.tsv.gz", 500)[0] and len(titles) == 500
