"""Titles that a tokenizer cannot read."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers

from cprec_jax.text import tokenizer
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.unknown_titles import titles_unknown

# Words of no known letter are "?"; "!" stands for the end of item.
TITLES = ["Halo", "Zelda Halo", "塞尔达", "塞 尔", "Halo 塞", "塞 尔 达", "Zelda"]


@pytest.fixture
def splitter(tmp_path: Path) -> tokenizer.Tokenizer:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"Halo": 0, "Zelda": 1, "?": 2, "!": 3}, unk_token="?"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"unk_token": "?", "tokenizer_class": "PreTrainedTokenizerFast"}')
    return tokenizer.load(tmp_path)


def test_titles_of_unknown_tokens_alone_are_counted(splitter: tokenizer.Tokenizer) -> None:
    catalogue = Catalogue.build(splitter, TITLES, "!")
    every = np.arange(len(TITLES))
    assert titles_unknown(catalogue, every, splitter, "!") == 3  # and neither "Halo 塞" nor what is known
    assert titles_unknown(catalogue, every[:2], splitter, "!") == 0
