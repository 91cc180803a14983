"""A tiny corpus and model, and the job `evaluate` on them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cprec_jax.config.text import TemplateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.methods import registry
from cprec_jax.text import tokenizer
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.template import Template
from cprec_jax.train.open import LoadedModel
from cprec_jax.workdir import result_directory
from tests import run_jobs as jobs
from tests.evaluate.world import EVALUATE
from tests.model.tiny import tiny


@pytest.fixture(scope="module")
def corpus(tiny_rows: Path) -> Corpus:
    return Corpus.open(tiny_rows / "corpus")


@pytest.fixture(scope="module")
def model(corpus: Corpus, tiny_rows: Path) -> LoadedModel:
    words = tokenizer.load(tiny_rows / "rows" / "cpt" / "tokenizer")
    decoder, params = tiny(vocab_size=448, num_layers=2, max_position_embeddings=64)
    template = TemplateSpec(header="{scope}:\n")
    catalogue = Catalogue.build(words, corpus.items.title, template.end_of_item)
    return LoadedModel(
        decoder=decoder, params=params, catalogue=catalogue, template=Template(template, words), step=7, tokenizer=words
    )


@pytest.fixture
def evaluated(corpus: Corpus, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the job with `model` in place of a checkpoint; gives results.json and ranks.parquet of one name."""
    (tmp_path / "corpus").symlink_to(corpus.path)
    (tmp_path / "runs" / "cpt").mkdir(parents=True)
    (tmp_path / "runs" / "cpt" / "manifest.json").write_text('{"params_sha256": "x"}')

    def run(name: str = "model", using: Any = None, **changes: Any) -> tuple[dict[str, Any], Any]:
        for cells in tmp_path.glob("cells*"):  # whatever is changed here, it is ranked with the change
            shutil.rmtree(cells)
        monkeypatch.setattr(registry, "load_model", using if callable(using) else lambda *_: using or model)
        jobs.evaluate({"evaluate": {**EVALUATE, **changes}}, tmp_path)
        directory = result_directory(tmp_path, changes.get("split", "test"), name)
        return json.loads((directory / "results.json").read_text()), pq.read_table(directory / "ranks.parquet")

    return run
