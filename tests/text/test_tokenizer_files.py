"""Tokenizers in every form that others publish, against `AutoTokenizer`, token by token."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from cprec_jax.text import new_tokens, tokenizer, tokenizer_files

TEXTS = [
    "Star Wars: Episode 42 (2001)\n",
    "Cafe\u0301 \u00e9 \ufb01 \u65e5\u672c\u8a9e \u2615\n",
    "A  B   C\n\n",
    "it's 12345 o'CLOCK\n",
    "  leading and trailing  ",
    "<|endoftext|> x <|im_start|> <s> </s>",
    "\x00\x01",
    "",
]
EXAMPLES = 200 if os.environ.get("CPREC_FUZZ") else 20


def auto(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)


def assert_same(directory: Path, in_transformers: Any, texts: list[str]) -> None:
    """Texts as control tokens and as text, BOS, and the size."""
    loaded = tokenizer.load(directory)
    assert loaded.bos_id == in_transformers.bos_token_id
    assert loaded.size == len(in_transformers)
    flat, offsets = loaded.encode_all(texts)
    for number, text in enumerate(texts):
        assert loaded.encode(text).tolist() == in_transformers.encode(text, add_special_tokens=False), text
        as_text = in_transformers.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert flat[offsets[number] : offsets[number + 1]].tolist() == as_text, text


def write(path: Path, value: Any) -> None:
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")


def pair(source: Path, target: Path, *kept: str) -> Path:
    """`vocab.json` and `merges.txt` of a tokenizer that is published as tokenizer.json; the files `kept` beside
    them."""
    target.mkdir(parents=True)
    model = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    write(target / "vocab.json", model["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    write(target / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    for name in kept:
        shutil.copyfile(source / name, target / name)
    return target


def small(directory: Path, **settings_: Any) -> Path:
    """A byte-level BPE of our own; `settings_` replace its tokenizer_config.json."""
    tokenizer.train(["Star Wars\n", "Star Trek\n", "Caf\u00e9\n"], [9, 9, 9], 300, directory)
    if settings_:
        write(directory / "tokenizer_config.json", settings_)
    return directory


def sentencepiece_model(directory: Path, kind: str) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece")
    directory.mkdir(parents=True)
    (directory / "corpus.txt").write_text(
        "Star Wars\nStar Trek\nThe old man and the sea\nCaf\u00e9 42\n" * 50, encoding="utf-8"
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(directory / "corpus.txt"),
        model_prefix=str(directory / "tokenizer"),
        vocab_size=300,
        model_type=kind,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (directory / "corpus.txt").unlink()
    (directory / "tokenizer.vocab").unlink()
    return directory


@pytest.mark.parametrize("name", ["qwen2.5", "smollm2", "qwen3", "llama3"])
def test_tokenizer_json(shared_tokenizers: Path, name: str) -> None:
    assert_same(shared_tokenizers / name, auto(shared_tokenizers / name), TEXTS)


@pytest.mark.parametrize("name", ["qwen2.5", "smollm2"])
def test_vocab_and_merges_are_read_by_their_own_class(shared_tokenizers: Path, tmp_path: Path, name: str) -> None:
    directory = pair(shared_tokenizers / name, tmp_path / "pair", "tokenizer_config.json")
    assert_same(directory, auto(directory), TEXTS)
    from_json = tokenizer.load(shared_tokenizers / name)
    assert tokenizer.load(directory).encode_all(TEXTS)[0].tolist() == from_json.encode_all(TEXTS)[0].tolist()


def test_the_class_may_stand_in_config_json(shared_tokenizers: Path, tmp_path: Path) -> None:
    directory = pair(shared_tokenizers / "qwen2.5", tmp_path / "pair")
    write(directory / "config.json", {"model_type": "qwen2"})
    assert_same(directory, auto(directory), TEXTS)
    assert directory / "config.json" in tokenizer_files.input_files(directory)
    tokenizer_files.copy(directory, tmp_path / "copy")  # where no config.json is
    assert_same(tmp_path / "copy", auto(directory), TEXTS)


def test_a_pair_that_nobody_claims_is_gpt2s_and_a_line_says_so(
    shared_tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import GPT2Tokenizer

    shutil.copytree(shared_tokenizers / "gpt2", tmp_path / "gpt2")
    with pytest.raises(ValueError, match="instantiate"):
        auto(tmp_path / "gpt2")
    assert_same(tmp_path / "gpt2", GPT2Tokenizer.from_pretrained(str(tmp_path / "gpt2")), TEXTS)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "read as GPT-2's" in lines[0] and "tokenizer_class" in lines[0]
    tokenizer_files.copy(tmp_path / "gpt2", tmp_path / "copy")
    assert_same(tmp_path / "copy", auto(tmp_path / "copy"), TEXTS)
    assert (
        tokenizer.load(tmp_path / "copy").encode_all(TEXTS)[0].tolist()
        == tokenizer.load(tmp_path / "gpt2").encode_all(TEXTS)[0].tolist()
    )


def test_a_pair_without_gpt2s_end_token_does_not_get_one(tmp_path: Path) -> None:
    complete = small(tmp_path / "whole")
    directory = pair(complete, tmp_path / "pair")
    vocabulary = json.loads((directory / "vocab.json").read_text())
    del vocabulary["<|endoftext|>"]
    write(directory / "vocab.json", {token: index - 1 for token, index in vocabulary.items()})
    loaded = tokenizer.load(directory)
    assert loaded.size == len(vocabulary) and loaded.bos_id is None


@pytest.mark.parametrize("name", ["smollm2", "qwen2.5"])
def test_new_tokens_take_no_id_that_is_taken(shared_tokenizers: Path, tmp_path: Path, name: str) -> None:
    directory = pair(shared_tokenizers / name, tmp_path / "pair", "tokenizer_config.json")
    before = auto(directory)
    tokenizer_files.copy(directory, tmp_path / "copy")
    after, added = new_tokens.add(tmp_path / "copy", ["<|Books|>", "<|endoftext|>"])
    assert added == {"<|Books|>": len(before)}
    assert after.encode("<|endoftext|>").tolist() == [before.convert_tokens_to_ids("<|endoftext|>")]
    assert_same(tmp_path / "copy", auto(tmp_path / "copy"), [*TEXTS, "<|Books|>Star Wars\n"])


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("class_", ["LlamaTokenizer", "T5Tokenizer", None])
def test_a_sentencepiece_model_alone(tmp_path: Path, kind: str, class_: str | None) -> None:
    directory = sentencepiece_model(tmp_path / "model", kind)
    if class_ is not None:
        write(directory / "tokenizer_config.json", {"tokenizer_class": class_})
    try:
        in_transformers = auto(directory)
    except Exception:
        with pytest.raises(UserError, match="not a usable tokenizer"):
            tokenizer.load(directory)
        return
    assert_same(directory, in_transformers, TEXTS)
    tokenizer_files.copy(directory, tmp_path / "copy")
    assert_same(tmp_path / "copy", auto(tmp_path / "copy"), TEXTS)
    assert (
        tokenizer.load(tmp_path / "copy").encode_all(TEXTS)[0].tolist()
        == tokenizer.load(directory).encode_all(TEXTS)[0].tolist()
    )


# where BOS may be named: tokenizer_config.json, special_tokens_map.json, the class, or nowhere
BOS: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]] = {
    "in the settings": ({"bos_token": "<|endoftext|>"}, None),
    "as an object": ({"bos_token": {"__type": "AddedToken", "content": "<|endoftext|>"}}, None),
    "in the map alone": (None, {"bos_token": "<|endoftext|>"}),
    "in the map, other settings": (
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"bos_token": {"content": "<|endoftext|>"}},
    ),
    "null in the settings, named in the map": ({"bos_token": None}, {"bos_token": "<|endoftext|>"}),
    "in the map, but the settings list added tokens": ({"added_tokens_decoder": {}}, {"bos_token": "<|endoftext|>"}),
    "by the class": ({"tokenizer_class": "GPT2Tokenizer"}, None),
    "null against the class": ({"tokenizer_class": "GPT2Tokenizer", "bos_token": None}, None),
    "a class without one": ({"tokenizer_class": "Qwen2Tokenizer"}, None),
    "nowhere": (None, None),
}


@pytest.mark.parametrize("name", BOS)
def test_bos_wherever_it_is_named(tmp_path: Path, name: str) -> None:
    directory = small(tmp_path / "tokenizer")
    configured, mapped = BOS[name]
    (directory / "tokenizer_config.json").unlink()
    for file, value in (("tokenizer_config.json", configured), ("special_tokens_map.json", mapped)):
        if value is not None:
            write(directory / file, value)
    in_transformers = auto(directory)
    assert tokenizer.load(directory).bos_id == in_transformers.bos_token_id
    tokenizer_files.copy(directory, tmp_path / "copy")
    assert (
        tokenizer.load(tmp_path / "copy").bos_id == auto(tmp_path / "copy").bos_token_id == in_transformers.bos_token_id
    )


def test_a_class_without_any_of_its_files_is_refused(tmp_path: Path) -> None:
    """transformers builds LlamaTokenizer of three tokens there."""
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    assert len(auto(tmp_path)) == 3
    with pytest.raises(UserError, match="finds no vocabulary"):
        tokenizer.load(tmp_path)


def test_nothing_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds none of tokenizer\.json, vocab\.json"):
        tokenizer.load(tmp_path)


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    directory = pair(small(tmp_path / "whole"), tmp_path / "pair")
    write(directory / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.Mine", None]}})
    write(directory / "code.py", f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(UserError, match="custom code"):
        tokenizer.load(directory)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"bos_token": 7}'])
def test_damaged_files_give_one_line(tmp_path: Path, file: str, content: str) -> None:
    directory = small(tmp_path / "tokenizer", added_tokens=None)
    write(directory / file, content)
    try:
        loaded = tokenizer.load(directory)
    except UserError as error:
        assert "\n" not in str(error) and str(directory) in str(error)
    else:
        assert content == '{"bos_token": 7}' and loaded.bos_id is None


@pytest.mark.parametrize("end", ["\n", " <|endoftext|>\n", "<|endoftext|>"])
@settings(max_examples=EXAMPLES)
@given(
    st.lists(
        st.one_of(st.text(max_size=8), st.sampled_from(["<|endoftext|>", "a <|endoftext|> b", "<|endoftext|"])),
        max_size=4,
    )
)
@example(["<|endoftext|>", "Star Wars"])
def test_control_tokens_are_text_in_titles_and_tokens_in_the_end_of_item(end: str, titles: list[str]) -> None:
    trained = _trained()
    titles = [title.encode("utf-8", "ignore").decode() for title in titles]
    tokens, offsets = trained.encode_items(titles, end)
    control = trained.encode("<|endoftext|>").tolist()
    assert len(control) == 1
    for number, title in enumerate(titles):
        item = tokens[offsets[number] : offsets[number + 1]].tolist()
        assert trained.decode(item) == title + end
        assert item.count(control[0]) == end.count("<|endoftext|>")


_KEPT: list[tokenizer.Tokenizer] = []


def _trained() -> tokenizer.Tokenizer:
    if not _KEPT:
        import tempfile

        with tempfile.TemporaryDirectory() as directory:
            _KEPT.append(tokenizer.load(small(Path(directory))))
    return _KEPT[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bos_token": "<nope>"}, r"bos_token '<nope>' is no token of tokenizer.json"),
        (
            {"bos_token": {"__type": "AddedToken", "content": "<nope>"}},
            r"bos_token '<nope>' is no token of tokenizer.json",
        ),
        ({"tokenizer_class": ["GPT2Tokenizer"]}, r"tokenizer_class = \['GPT2Tokenizer'\] is no name of a class"),
    ],
)
def test_settings_that_only_the_export_would_stumble_over_are_refused_at_once(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    directory = small(tmp_path / "small")
    before = json.loads((directory / "tokenizer_config.json").read_text())
    write(directory / "tokenizer_config.json", before | change)
    with pytest.raises(UserError, match=message):
        tokenizer.load(directory)
    write(directory / "tokenizer_config.json", before | {"bos_token": None})
    assert tokenizer.load(directory).bos_id is None


def test_a_tokenizer_without_a_token_and_ids_that_are_no_numbers(tmp_path: Path) -> None:
    directory = small(tmp_path / "small")
    content = json.loads((directory / "tokenizer.json").read_text())
    write(
        directory / "tokenizer.json",
        content | {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "?"}, "added_tokens": []},
    )
    with pytest.raises(UserError, match=r"not a usable tokenizer \(it has no token\)"):
        tokenizer.load(directory)
    content["model"]["vocab"]["a title"] = "5"
    write(directory / "tokenizer.json", content)
    with pytest.raises(UserError, match=r"tokenizer.json: not a usable tokenizer \(the id of 'a title' is no number\)"):
        tokenizer_files.token_ids(directory)
