"""The card's front matter, facts, results, and the code it shows."""

import dataclasses
import json
import re

import pytest

from cprec_jax.config.root import make_config
from cprec_jax.config.train import ScheduleSpec, TrainSpec
from cprec_jax.errors import UserError
from cprec_jax.report.model_card import base_licence, model_card
from cprec_jax.train.description import training_facts
from tests.report import workdirs

SETS = {"Books": 800, "Garden": 120}
TEMPLATE = {
    "header": "Items one user chose in {scope}, oldest first:\n",
    "end_of_item": "\n",
    "all_domains": "all domains",
}
CONFIG = make_config(workdirs.config())


def facts(**changes):
    values = {
        "parameters": 1234567,
        "step": 300,
        "tokens": 7654321,
        "dtype": "float32",
        "init_from": None,
        "template": TEMPLATE,
    }
    values |= {
        "training": training_facts(TrainSpec(steps=300, schedule=ScheduleSpec(peak=4e-3), seed=3)),
        "row_length": 256,
    }
    return {**values, "corpus_hash": "aa" * 32, "rows_hash": "bb" * 32, "params_sha256": "cc" * 32, **changes}


def front_matter(card: str) -> list[str]:
    _, block, _ = card.split("---\n", 2)
    return block.splitlines()


def code(card: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card, re.S)
    return block


def test_the_card_states_facts_data_schedule_results_and_hashes(tmp_path):
    card = model_card(CONFIG, workdirs.make_workdir(tmp_path, SETS), facts())
    assert card.startswith("---\n")
    lines = front_matter(card)
    assert (
        "library_name: transformers" in lines
        and "pipeline_tag: text-generation" in lines
        and "- recommendation" in lines
    )
    for words in (
        "1,234,567 parameters",
        "trained from scratch",
        "7,654,321",
        "peak 0.004",
        "row length: 256",
        "seed: 3",
        "float32",
    ):
        assert words in card
    assert "warm-up 3 %, stable 87 %, annealing 10 %" in card and "weight decay 0.1" in card  # the defaults, too
    assert "| Books | pre-training | 300 | 14,935 |" in card and "| Garden | evaluation only | 300 | – |" in card
    assert "| cpt | **0.2400** (0.2104–0.2696) |" in card and "This model is the row `cpt`." in card
    assert all(value * 32 in card for value in ("aa", "bb", "cc"))
    assert str(tmp_path) not in card


def test_without_results_or_corpus_the_card_is_still_whole(tmp_path):
    card = model_card(CONFIG, tmp_path, facts())
    assert "## Results" not in card and "## Use" in card and "## Limits" in card


def test_results_of_another_corpus_are_not_printed_and_damaged_ones_are_named(tmp_path):
    workdir = workdirs.make_workdir(tmp_path, SETS)
    workdirs.write(workdir / "corpus" / "manifest.json", {**workdirs.manifest(SETS), "corpus_hash": "ff" * 32})
    assert "## Results" not in model_card(CONFIG, workdir, facts())
    (workdir / "results" / "0" / "results.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        model_card(CONFIG, workdir, facts())


def base_model(path, text):
    path.mkdir()
    (path / "README.md").write_text(text, encoding="utf-8")
    return path


def test_the_licence_is_that_of_the_base_model_and_its_path_stays_private(tmp_path):
    base = base_model(tmp_path / "some-base", "---\nlanguage:\n- en\nlicense: apache-2.0\n---\n# Base\nlicense: mit\n")
    card = model_card(CONFIG, tmp_path, facts(init_from=str(base)))
    assert 'license: "apache-2.0"' in front_matter(card)
    assert "starting from `some-base`" in card and str(tmp_path) not in card


@pytest.mark.parametrize("text", ["# no front matter\nlicense: mit\n", "", "---\nlanguage: en\n---\nlicense: mit\n"])
def test_an_unknown_licence_is_not_made_up(tmp_path, text):
    base = base_model(tmp_path / "base", text)
    assert base_licence(base) == "" and base_licence(tmp_path / "absent") == ""
    card = model_card(CONFIG, tmp_path, facts(init_from=str(base)))
    assert not any(line.startswith("license") for line in front_matter(card))
    assert "look it up" in card


def test_foreign_text_cannot_leave_its_place(tmp_path):
    base = base_model(tmp_path / "base", '---\nlicense: mit"\\ntags: [x]\n---\n')
    config = dataclasses.replace(CONFIG, name="<script>alert(1)</script>")
    template = {**TEMPLATE, "header": 'a "b" ```\nimport os\n'}
    card = model_card(config, tmp_path, facts(init_from=str(base), template=template))
    licence = next(line for line in front_matter(card) if line.startswith("license: "))
    assert json.loads(licence.removeprefix("license: ")) == 'mit"\\ntags: [x]'
    assert "<script" not in card
    compile(code(card), "card", "exec")


@pytest.mark.torch
def test_the_code_of_the_card_scores_titles_as_our_decoder_does(tmp_path, monkeypatch):
    import jax
    import numpy as np

    from cprec_jax.config.text import TemplateSpec
    from cprec_jax.hf.save import save
    from cprec_jax.model.decoder import logits
    from cprec_jax.text import tokenizer
    from cprec_jax.text.catalogue import Catalogue
    from cprec_jax.text.template import Template
    from tests.model.tiny import one_segment, tiny

    pytest.importorskip("torch")
    titles = ["A title", "Another title", "One candidate", "Another candidate"]
    words = tokenizer.train(titles, [9] * 4, 300, tmp_path / "tokenizer")
    decoder, params = tiny(vocab_size=320)
    card = model_card(CONFIG, tmp_path, facts())
    save(tmp_path / "export", params, decoder.config, tmp_path / "tokenizer", card)
    monkeypatch.chdir(tmp_path / "export")
    shown: dict = {}
    exec(compile(code((tmp_path / "export" / "README.md").read_text()), "card", "exec"), shown)

    catalogue = Catalogue.build(words, titles, "\n")
    prefix = Template(TemplateSpec(), words).prompt("Books", np.array([0, 1], np.int32), catalogue, 1000).tokens
    assert shown["prefix"] == prefix.tolist()
    wanted = {}
    for item, title in enumerate(titles[2:], start=2):
        target, _ = catalogue.gather(np.array([item], np.int32))
        tokens_BT, positions_BT, context = one_segment(np.concatenate([prefix, target])[None])
        scores = jax.nn.log_softmax(
            logits(params, decoder.config, decoder.apply({"params": params}, tokens_BT, positions_BT, context))
        )
        wanted[title] = sum(float(scores[0, len(prefix) - 1 + i, token]) for i, token in enumerate(target))
        assert shown["score"](shown["prefix"], title) == pytest.approx(wanted[title], abs=1e-3)
    assert shown["ranked"] == sorted(wanted, key=lambda title: -wanted[title])
