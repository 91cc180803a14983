"""Leak probes: what the forward pass says is what greedy decoding writes, and a model that knows titles is found
out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.eval_set import EvalSet, open_set
from cprec_jax.evaluate.results import read_result
from cprec_jax.inference.prompts import make_prompts
from cprec_jax.methods import leak_probe as probe
from cprec_jax.model.decoder import logits
from cprec_jax.report.leak_table import leak_table
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.train.open import LoadedModel


@pytest.fixture(scope="module")
def data(corpus: Corpus) -> EvalSet:
    return open_set(corpus, "Books", "test", ("full",), True, 20, 0)


def greedy(model: LoadedModel, given: np.ndarray, n: int) -> np.ndarray:
    """One token after the other, each by a pass over everything before it."""
    tokens = np.zeros((1, 32), np.int32)  # one width, which is compiled once
    tokens[0, : len(given)] = given
    for last in range(len(given) - 1, len(given) + n - 1):
        hidden = model.decoder.apply({"params": model.params}, tokens, np.arange(32)[None], (np.ones_like(tokens),))
        tokens[0, last + 1] = np.asarray(logits(model.params, model.decoder.config, hidden))[0, last].argmax()
    return tokens[0, len(given) : len(given) + n]


@pytest.mark.slow
def test_verbatim_is_what_greedy_decoding_writes(model: LoadedModel) -> None:
    rng = np.random.default_rng(0)
    asked, expected = [], []
    for number in range(11):  # more than one batch, the last one not full
        given = rng.integers(0, 400, int(rng.integers(1, 12))).astype(np.int32)
        rest = greedy(model, given, int(rng.integers(2, 6)))
        if number % 3 == 0:  # one token is another
            rest = rest.copy()
            rest[1] = (rest[1] + 1) % 400
        asked.append((given, rest))
        expected.append(number % 3 != 0)
    hits = probe._hits(model, asked)
    assert [bool(hit.all()) for hit in hits] == expected
    assert all(hit[0] for hit in hits) and [len(hit) for hit in hits] == [len(rest) for _, rest in asked]


def test_a_model_that_knows_titles_is_found_out(model: LoadedModel, data: EvalSet, corpus: Corpus) -> None:
    before = probe.leak_probe(model, data, 40, 60, 0)
    assert before["titles_verbatim"] == 0 and before["sequences_verbatim"] == 0 and before["titles"] > 8, (
        "a random model knows nothing"
    )
    assert model.tokenizer is not None
    bos = np.array([model.tokenizer.bos_id])
    tokens = [model.catalogue.item(item) for item in range(len(model.catalogue))]
    for item in data.items[::2]:  # every second title goes on as the model would
        title = tokens[item][:-1]
        half = -(-len(title) // 2)
        if len(title) >= probe.SHORTEST:
            rest = greedy(model, np.concatenate([bos, title[:half]]), len(title) - half)
            tokens[item] = np.concatenate([title[:half], rest, tokens[item][-1:]])
    known = Catalogue(tokens=np.concatenate(tokens), offsets=np.cumsum([0, *map(len, tokens)]), unknown_tokens=0)
    after = probe.leak_probe(dataclasses.replace(model, catalogue=known), data, 40, 60, 0)
    asked = [item for item in data.items if len(tokens[item]) > probe.SHORTEST]
    expected = sum(item in set(data.items[::2].tolist()) for item in asked) / len(asked)
    assert (
        after["titles"] == len(asked)
        and after["titles_verbatim"] == pytest.approx(expected)
        and after["titles_tokens"] > before["titles_tokens"]
    )


def test_sequences_are_asked_after_the_prompt_of_the_evaluation(model: LoadedModel, data: EvalSet) -> None:
    own, others = probe._sequence_continuations(model, data, 40, 20, 0)
    prompts = make_prompts(data.targets, "Books", model.catalogue, model.template, 40).tokens
    titles = [model.catalogue.item(int(item))[:-1].tolist() for item in data.targets.target]
    written = sorted((prompt.tolist(), title) for prompt, title in zip(prompts, titles, strict=True))
    assert len(own) == len(others) > 10 and all((given.tolist(), rest.tolist()) in written for given, rest in own)
    assert all(a[0] is b[0] and not np.array_equal(a[1], b[1]) for a, b in zip(own, others, strict=True)), (
        "another's target"
    )


def test_through_the_job_and_in_the_report(evaluated, tmp_path: Path) -> None:
    plain, _ = evaluated()
    assert "leak_probe" not in plain["sets"]["Books"]
    result, _ = evaluated(leak_probe=9)
    found = result["sets"]["Books"]["leak_probe"]
    assert found["titles"] == 9 and 0 < found["sequences"] <= 9 and 0 <= found["titles_tokens"] < 1
    read = read_result(tmp_path / "results" / "model" / "results.json")
    table = leak_table([read], ["Books"])
    assert table is not None and [cell.text for cell in table.rows[0].cells][:4] == ["Books", "model", "9", "0.000"]
    assert leak_table([], ["Books"]) is None


def test_a_share_of_no_titles_is_none(
    model: LoadedModel, data: EvalSet, evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "SHORTEST", 1000)
    found = probe.leak_probe(model, data, 40, 9, 0)
    assert found["titles"] == 0 and found["titles_verbatim"] is None and found["titles_tokens"] is None
    evaluated(leak_probe=9)
    table = leak_table([read_result(tmp_path / "results" / "model" / "results.json")], ["Books"])
    assert table is not None
    texts = [cell.text for cell in table.rows[0].cells]
    assert texts[2:5] == ["0", "–", "–"] and texts[6] != "–"
