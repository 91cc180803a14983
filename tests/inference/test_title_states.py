"""Mean hidden states of titles, and GRU4Rec and SASRec that start from them or from TF-IDF, through the job."""

import numpy as np
import pytest

from cprec_jax.corpus import Corpus
from cprec_jax.inference.title_states import title_states
from cprec_jax.methods import registry
from cprec_jax.train.open import LoadedModel
from tests import run_jobs as jobs

SIZES = {
    "hidden": 16,
    "layers": 1,
    "max_length": 12,
    "epochs": 1,
    "dropout": [0.1],
    "learning_rate": [1e-2],
    "validation_users": 40,
}


def test_they_depend_on_no_batch_and_no_padding(model: LoadedModel, corpus: Corpus) -> None:
    items = corpus.catalogue("Books")
    states = title_states(model.decoder, model.params, model.catalogue, items)
    assert states.shape == (len(items), model.decoder.config.hidden_size)
    np.testing.assert_allclose(
        title_states(model.decoder, model.params, model.catalogue, items[[7]])[0], states[7], atol=1e-5
    )
    tokens = model.catalogue.item(int(items[7]))[None]
    positions = np.arange(tokens.shape[1])[None]
    alone = model.decoder.apply({"params": model.params}, tokens, positions, (np.ones_like(tokens),))
    np.testing.assert_allclose(np.asarray(alone)[0].mean(axis=0), states[7], atol=1e-5)


@pytest.mark.slow
def test_through_the_job(evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name: {"kind": "sasrec", "init": init} for name, init in (("tf-idf", "titles"), ("states", "model"))}
    names["model"] = {"kind": "checkpoint"}
    asked = []
    monkeypatch.setattr(registry, "title_states", lambda *given: asked.append(len(given[3])) or title_states(*given))
    found = {}
    for name in ("tf-idf", "states"):
        result, _ = evaluated(name, names=names, sequential=SIZES)
        assert result["kind"] == "sasrec"
        found[name] = result["sets"]["Books"]["protocols"]["full"]["nll"]
    assert len(set(found.values())) == 2 and all(0 < nll < 8 for nll in found.values())
    assert asked and set(asked) == {result["sets"]["Books"]["items"]}


def test_what_it_is_made_from(workdir, corpus: Corpus) -> None:
    (workdir / "runs" / "cpt").mkdir(parents=True, exist_ok=True)
    manifest = workdir / "runs" / "cpt" / "manifest.json"
    manifest.write_text('{"params_sha256": "x"}')
    names = {"a": {"kind": "sasrec", "init": "m"}, "b": {"kind": "sasrec"}, "m": {"kind": "checkpoint"}}
    before = [jobs.made_from({"evaluate": {"names": names}}, workdir, f"results/{name}") for name in "ab"]
    manifest.write_text('{"params_sha256": "y"}')
    after = [jobs.made_from({"evaluate": {"names": names}}, workdir, f"results/{name}") for name in "ab"]
    assert before[0] != after[0] and before[1] == after[1], (
        "the model's parameters count, for the row that starts from it"
    )
