from pathlib import Path

import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.text import tokenizer

TITLES = ["Star Wars", "Star Trek", "Ünïcode ☕ café", "A\tB"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tokenizer.Tokenizer:
    return tokenizer.train([t + "\n" for t in TITLES], [50, 40, 3, 3], 320, tmp_path_factory.mktemp("tokenizer"))


def test_any_text_survives_a_round_trip(trained: tokenizer.Tokenizer) -> None:
    for text in [*TITLES, "never seen: 日本語 \x00", ""]:
        assert trained.decode(trained.encode(text)) == text


def test_a_frequent_title_with_its_end_is_one_token(trained: tokenizer.Tokenizer) -> None:
    assert len(trained.encode("Star Wars\n")) == 1
    assert len(trained.encode("Star Gate\n")) > 1


def test_within_words_no_token_spans_a_space(tmp_path: Path) -> None:
    within = tokenizer.train([t + "\n" for t in TITLES], [50, 40, 3, 3], 320, tmp_path, across_words=False)
    assert len(within.encode("Star Wars\n")) >= 3


def test_encode_all_equals_encode(trained: tokenizer.Tokenizer) -> None:
    tokens, offsets = trained.encode_all(TITLES)
    for i, title in enumerate(TITLES):
        np.testing.assert_array_equal(tokens[offsets[i] : offsets[i + 1]], trained.encode(title))


def test_the_directory_loads_in_transformers(trained: tokenizer.Tokenizer) -> None:
    from transformers import AutoTokenizer

    in_transformers = AutoTokenizer.from_pretrained(trained.directory)
    assert (
        in_transformers("Star Wars\nStar Trek\n", add_special_tokens=False).input_ids
        == trained.encode("Star Wars\nStar Trek\n").tolist()
    )
    assert in_transformers.bos_token_id == trained.bos_id == 0


def test_bad_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such tokenizer directory"):
        tokenizer.load(tmp_path / "nothing")
    (tmp_path / "tokenizer.json").write_text("{not json")
    with pytest.raises(UserError, match="not a usable tokenizer"):
        tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="too small"):
        tokenizer.train(["a"], [1], 100, tmp_path / "small")


@pytest.mark.parametrize("name", ["qwen2.5", "smollm2", "gpt2", "llama3"])
def test_real_tokenizers_keep_the_end_of_item(shared_tokenizers: Path, name: str) -> None:
    from cprec_jax.text.catalogue import Catalogue

    real = tokenizer.load(shared_tokenizers / name)
    titles = ["Halo", "Halo 2", "Halo 2 (Limited)", "halo", 'VideoSecu 24" Arm', "Ünïcode ☕"]
    catalogue = Catalogue.build(real, titles, "\n")
    for i, title in enumerate(titles):
        assert real.decode(catalogue.item(i)) == title + "\n"
