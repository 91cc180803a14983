"""Perplexity on a general text, against the whole softmax; files that cannot serve."""

from pathlib import Path

import jax
import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.methods import forgetting as module
from cprec_jax.methods.forgetting import general_text
from cprec_jax.model.decoder import logits
from tests.model.tiny import hidden, one_segment, tiny


class Letters:
    """A tokenizer of letters, with or without BOS."""

    def __init__(self, bos_id: int | None):
        self.bos_id = bos_id

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32) % 60

    def encode_all(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        tokens = [self.encode(text) for text in texts]
        return np.concatenate(tokens), np.cumsum([0, *map(len, tokens)])


@pytest.mark.parametrize("bos", [None, 61])
def test_equal_to_the_whole_softmax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bos: int | None) -> None:
    monkeypatch.setattr(module, "WINDOW", 20)
    decoder, params = tiny()
    path = tmp_path / "general.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, and nobody minds: neither the dog nor the fox.")
    words = Letters(bos)
    tokens = words.encode(path.read_text())
    total, count = 0.0, 0
    step = 21 if bos is None else 20
    for at in range(0, len(tokens), step):
        piece = tokens[at : at + step] if bos is None else np.concatenate([[bos], tokens[at : at + step]])
        row = np.zeros((1, 40), np.int32)
        row[0, : len(piece)] = piece
        x = hidden(decoder, params, one_segment(row))
        log_p = np.asarray(jax.nn.log_softmax(logits(params, decoder.config, jax.numpy.asarray(x)), axis=-1))[0]
        total -= sum(log_p[i, piece[i + 1]] for i in range(len(piece) - 1))
        count += len(piece) - 1
    found = general_text(decoder, params, words, path)  # type: ignore[arg-type]  # a tokenizer of letters
    assert found["tokens"] == count
    assert found["nll"] == pytest.approx(total / count, abs=1e-4) and found["perplexity"] == pytest.approx(
        np.exp(total / count), rel=1e-3
    )
    assert found["bits_per_byte"] == pytest.approx(total / np.log(2) / path.stat().st_size, rel=1e-4)


def test_unfit_files_are_refused(tmp_path: Path) -> None:
    decoder, params = tiny()
    (tmp_path / "short.txt").write_text("a")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff")
    for name, message in (
        ("absent.txt", "cannot be read"),
        ("binary.txt", "cannot be read"),
        ("short.txt", "nothing can be predicted"),
    ):
        with pytest.raises(UserError, match=message):
            general_text(decoder, params, Letters(None), tmp_path / name)  # type: ignore[arg-type]  # as above
