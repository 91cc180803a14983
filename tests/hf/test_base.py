"""What is kept of a base model: card and licence always, its token ids only with its tokenizer."""

import json
import shutil
from pathlib import Path

import pytest

from cprec_jax.hf import base
from cprec_jax.text import new_tokens, tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer.train(["a title\n"] * 9, [1] * 9, 290, tmp_path / "model")
    for name in ("config.json", "generation_config.json", "README.md", "LICENSE", "modeling.py", "pytorch_model.bin"):
        (tmp_path / "model" / name).write_text("{}")
    return tmp_path / "model"


def kept(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {base.SOURCE}


def test_with_its_tokenizer(model: Path, tmp_path: Path) -> None:
    base.keep(str(model), model, tmp_path / "kept")
    assert kept(tmp_path / "kept") == {"README.md", "LICENSE", "config.json", "generation_config.json"}
    assert base.hub_name(tmp_path / "kept") is None


def test_with_its_tokenizer_and_new_tokens(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "more")
    new_tokens.add(tmp_path / "more", ["<new>"])
    base.keep(str(model), tmp_path / "more", tmp_path / "kept")
    assert "generation_config.json" in kept(tmp_path / "kept")


def test_with_another_tokenizer_or_none(model: Path, tmp_path: Path) -> None:
    tokenizer.train(["another one\n"] * 9, [1] * 9, 290, tmp_path / "other")
    base.keep(str(model), tmp_path / "other", tmp_path / "kept")
    assert kept(tmp_path / "kept") == {"README.md", "LICENSE"}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    base.keep(str(model), tmp_path / "other", tmp_path / "kept")
    assert kept(tmp_path / "kept") == {"README.md", "LICENSE"}


def test_with_a_tokenizer_that_cannot_be_loaded(model: Path, tmp_path: Path) -> None:
    tokenizer.train(["another one\n"] * 9, [1] * 9, 290, tmp_path / "other")
    (model / "tokenizer.json").write_text("{")
    base.keep(str(model), tmp_path / "other", tmp_path / "kept")
    assert kept(tmp_path / "kept") == {"README.md", "LICENSE"}


def test_a_model_of_the_hub_keeps_its_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "locate", lambda source: model)
    base.keep("owner/name@v1", model, tmp_path / "kept")
    assert base.hub_name(tmp_path / "kept") == "owner/name"
    assert json.loads((tmp_path / "kept" / base.SOURCE).read_text())["init_from"] == "owner/name@v1"
    assert base.hub_name(tmp_path / "nothing") is None
