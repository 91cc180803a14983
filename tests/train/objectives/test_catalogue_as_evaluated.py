"""What is trained on is what `evaluate` reports: the loss of a user's target is its NLL under the rule `trie`."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from cprec_jax.config.text import TemplateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.methods import registry
from cprec_jax.rows.dataset import expand, open_split
from cprec_jax.text import tokenizer
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.template import Template
from cprec_jax.train.catalogue_rows import capacities, row_columns
from cprec_jax.train.catalogue_tables import build_tables
from cprec_jax.train.objectives.catalogue import CatalogueLikelihood
from cprec_jax.train.open import LoadedModel
from cprec_jax.workdir import result_directory
from tests import run_jobs as jobs
from tests.evaluate.world import EVALUATE
from tests.model.tiny import tiny
from tests.road import config
from tests.train.catalogues import stored_row

T, TEMPERATURE = 128, 1.7
FEW = {"users": 200, "items": 150, "interactions": 4.0, "tastes": 8}  # so few that some targets were never trained on


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    workdir = tmp_path_factory.mktemp("few")
    jobs.prepare(config(corpus={"synthetic": FEW}), workdir)
    return Corpus.open(workdir / "corpus")


@pytest.fixture(scope="module")
def model(corpus: Corpus, tiny_rows: Path) -> LoadedModel:
    words = tokenizer.load(tiny_rows / "rows" / "cpt" / "tokenizer")
    decoder, params = tiny(vocab_size=448, num_layers=2, max_position_embeddings=256)
    template = TemplateSpec(header="{scope}:\n")
    catalogue = Catalogue.build(words, corpus.items.title, template.end_of_item)
    return LoadedModel(
        decoder=decoder, params=params, catalogue=catalogue, template=Template(template, words), step=7, tokenizer=words
    )


def rows_of(model: LoadedModel, corpus: Corpus, users: list[int]) -> list[dict[str, Any]]:
    """Header, history and target of users of the set, of which the target alone counts."""
    targets, header = corpus.targets("test", "Garden"), model.template.header("Garden")
    made = []
    for user in users:
        history = targets.items[targets.offsets[user] : targets.offsets[user + 1]].tolist()
        made.append(
            stored_row(model.catalogue, [[*history, int(targets.target[user])]], T, header.tolist(), last_only=True)
        )
    return made


def test_the_loss_of_a_target_is_the_nll_that_evaluate_reports(
    corpus: Corpus, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").symlink_to(corpus.path)
    (tmp_path / "runs" / "cpt").mkdir(parents=True)
    (tmp_path / "runs" / "cpt" / "manifest.json").write_text('{"params_sha256": "x"}')
    monkeypatch.setattr(registry, "load_model", lambda *_: model)
    changes = {
        "sets": ("Garden",),
        "max_users": None,
        "prompt_tokens": 100,
        "temperature": TEMPERATURE,
        "mask_history": "never",
    }
    jobs.evaluate({"evaluate": {**EVALUATE, **changes, "protocols": ("full",)}}, tmp_path)
    ranks = pq.read_table(result_directory(tmp_path, "test", "model") / "ranks.parquet").to_pylist()
    reported = {row["user"]: row["nll"] for row in ranks if row["protocol"] == "full"}

    targets = corpus.targets("test", "Garden")
    lengths = np.diff(np.concatenate([[0], np.cumsum(model.catalogue.lengths[targets.items])])[targets.offsets])
    fits = np.flatnonzero(lengths + len(model.template.header("Garden")) <= 100)
    never = [int(user) for user in fits if corpus.items.train_count[targets.target[user]] == 0]
    users = sorted({*never[:3], *fits[:9].tolist()})
    assert never and len(users) >= 9

    rows = rows_of(model, corpus, users)
    tables = build_tables(model.catalogue, {name: corpus.catalogue(name) for name in ("Books", "Garden")}, narrow=4)
    loss = CatalogueLikelihood(
        decoder=model.decoder,
        loss_chunk=16,
        lm_weight=0.0,
        loss_temperature=TEMPERATURE,
        tables=tables,
        capacities=capacities(tables, rows),
    )
    sums = jax.jit(lambda params, batch: loss.sums(params, batch, None)["item_nll"])
    for user, row in zip(users, rows, strict=True):
        made = expand(row) | loss.row_columns(row)
        batch = {name: jnp.asarray(made[name])[None] for name in loss.columns}
        assert float(loss.weights(batch)["item_nll"]) == 1
        assert float(sums(model.params, batch)) == pytest.approx(reported[int(targets.user[user])], abs=1e-4)


def test_packed_rows_have_the_decisions_of_their_items(tiny_rows: Path) -> None:
    """Rows of every source as `pack` writes them: as many target items as pieces that are no header, fewer than the
    room."""
    rows = tiny_rows / "rows" / "cpt"
    corpus = Corpus.open(tiny_rows / "corpus")
    catalogue = Catalogue.build(tokenizer.load(rows / "tokenizer"), corpus.items.title, TemplateSpec().end_of_item)
    tables = build_tables(catalogue, {name: corpus.catalogue(name) for name in ("Books", "Games")})
    splits = [open_split(rows, name) for name in ("Books", "Games", "mixed")]
    room = capacities(tables, (row for split in splits for row in split))
    for split in splits:
        for row in split:
            columns = row_columns(tables, room, row)
            assert columns["n_items"] == np.count_nonzero(row["items"])
            decided = np.flatnonzero(columns["decision"] < columns["decision"].max())
            assert expand(row)["loss_mask"][decided + 1].all()
