"""New tokens: one token each, after the ids there are, for us and for transformers, whatever files the tokenizer
consists of."""

import json
import shutil
from pathlib import Path

import pytest

from cprec_jax.errors import UserError
from cprec_jax.text import new_tokens, tokenizer

WANTED = ["<|Books|>", "<|all domains|>", "\u2192"]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    tokenizer.train(["the old man and the sea\n"] * 50, [1] * 50, 300, tmp_path / "trained")
    return tmp_path / "trained"


def test_scopes_are_written_out_and_nothing_twice() -> None:
    assert new_tokens.texts(["<|{scope}|>", "<x>", "<|A|>"], ["A", "B"]) == ["<|A|>", "<|B|>", "<x>"]


def test_ids_follow_and_other_texts_stay_as_they_were(trained: Path) -> None:
    before = tokenizer.load(trained)
    old = before.encode("the old sea").tolist()
    after, added = new_tokens.add(trained, WANTED)
    assert sorted(added.values()) == list(range(before.size, before.size + 3))
    assert after.size == before.size + 3
    assert after.encode("the old sea").tolist() == old
    ids = after.encode("<|Books|>the old sea<|all domains|>").tolist()
    assert ids == [added["<|Books|>"], *old, added["<|all domains|>"]]
    assert after.decode(ids) == "<|Books|>the old sea<|all domains|>"


def test_what_is_a_token_already_stays(trained: Path) -> None:
    content = (trained / "tokenizer.json").read_bytes()
    size = tokenizer.load(trained).size
    after, added = new_tokens.add(trained, ["<|endoftext|>", "a"])
    assert added == {} and after.size == size and (trained / "tokenizer.json").read_bytes() == content
    after, added = new_tokens.add(trained, ["a", "<new>"])
    assert added == {"<new>": size}
    assert new_tokens.add(trained, ["<new>"])[1] == {}


def test_ids_with_gaps_are_refused(trained: Path) -> None:
    path = trained / "tokenizer.json"
    raw = json.loads(path.read_text())
    last = max(raw["model"]["vocab"], key=raw["model"]["vocab"].get)
    raw["model"]["merges"] = [merge for merge in raw["model"]["merges"] if "".join(merge) != last]
    raw["model"]["vocab"][last] += 7
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match="cannot be added to this tokenizer"):
        new_tokens.add(trained, ["<new>"])


@pytest.mark.parametrize(
    "name",
    ["smollm2", "gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2.5", "qwen3", "llama3"))],
)
def test_real_tokenizers_with_transformers(shared_tokenizers: Path, tmp_path: Path, name: str) -> None:
    from transformers import AutoTokenizer

    directory = tmp_path / name
    shutil.copytree(shared_tokenizers / name, directory)
    directory.chmod(0o755)
    for file in directory.iterdir():
        file.chmod(0o644)
    size = tokenizer.load(directory).size
    after, added = new_tokens.add(directory, WANTED[:2])
    assert sorted(added.values()) == [size, size + 1]
    in_transformers = AutoTokenizer.from_pretrained(directory)
    for text in (*added, "<|Books|>A title, 42\n<|all domains|>"):
        assert in_transformers.encode(text, add_special_tokens=False) == after.encode(text).tolist()
    assert in_transformers.encode("<|Books|>", add_special_tokens=False) == [added["<|Books|>"]]
    assert len(in_transformers) == size + 2
    assert in_transformers.decode([added["<|Books|>"]], skip_special_tokens=True) == "<|Books|>"
