"""What validation users choose: temperature, PMI weight, scoring rule, checkpoint."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cprec_jax.config.evaluate import MethodSpec
from cprec_jax.corpus import Corpus
from cprec_jax.methods import registry, select, validation
from cprec_jax.methods.validation import Validation
from cprec_jax.train.open import LoadedModel
from tests import run_jobs as jobs
from tests.evaluate.world import EVALUATE, brute, column, with_twins
from tests.inference.titles import by_brute_force
from tests.model.tiny import tiny


def test_temperature_is_the_best_of_the_grid_on_validation(evaluated) -> None:
    grid = (0.5, 1.0, 4.0, 50.0)
    result, ranks = evaluated(temperature="validation", temperatures=grid, validation_users=10)
    values = result["sets"]["Books"]
    by_temperature = {t: values["validation_nll"][str(t)] for t in grid}
    assert values["temperature"] == min(by_temperature, key=by_temperature.get) > 1, "a random model is overconfident"
    _, fixed = evaluated(temperature=values["temperature"])
    np.testing.assert_allclose(column(fixed, "nll"), column(ranks, "nll"), atol=1e-5)


def test_pmi_takes_off_what_an_empty_history_says(evaluated, model: LoadedModel, corpus: Corpus) -> None:
    plain, _ = evaluated(mask_history="never")
    result, ranks = evaluated(pmi=0.5, mask_history="never")
    assert result["sets"]["Books"]["pmi_weight"] == 0.5 and "pmi_weight" not in plain["sets"]["Books"]
    trie, _, data = brute(model, corpus, users=2)
    titles = [tuple(int(t) for t in model.catalogue.item(i)) for i in data.items]
    empty, _ = by_brute_force(model.decoder, model.params, model.template.header("Books"), titles, end=None)
    scores = trie - 0.5 * empty
    scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
    np.testing.assert_allclose(column(ranks, "nll")[:2], -scores[np.arange(2), data.target[:2]], atol=2e-4)


def test_pmi_and_temperature_are_the_best_of_their_grid(evaluated) -> None:
    result, _ = evaluated(
        temperature="validation", temperatures=(1.0, 4.0), pmi="validation", pmi_weights=(0.0, 1.0), validation_users=6
    )
    values = result["sets"]["Books"]
    table = values["validation_nll_by_pmi"]
    best = min((table[t][w], t, w) for t in table for w in table[t])
    assert (str(values["temperature"]), str(values["pmi_weight"])) == best[1:]
    one, _ = evaluated(temperature="validation", temperatures=(1.0, 4.0), validation_users=6)
    for t, value in one["sets"]["Books"]["validation_nll"].items():  # the cheap way gives the same
        assert value == pytest.approx(table[t]["0.0"], abs=1e-4)


def test_the_rule_is_chosen_on_validation(evaluated) -> None:
    result, ranks = evaluated(rule="validation", validation_users=8)
    found = result["sets"]["Books"]["validation_mrr_by_rule"]
    assert result["scoring_rule"] == max(found, key=found.get) and set(found) == {"trie", "sum", "mean"}
    _, same = evaluated(rule=result["scoring_rule"])
    assert np.array_equal(column(same, "n_better"), column(ranks, "n_better"))


def test_one_rule_for_all_language_models(
    evaluated, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these models would choose another; the first that is trained chooses, whatever is evaluated now."""
    own = {3: "sum", 5: "trie", 7: "mean"}
    chosen_on = []

    def mrr(validation: Validation, _: float) -> dict[str, float]:
        chosen_on.append(validation._model.step)
        return {rule: float(rule == own[validation._model.step]) for rule in ("trie", "sum", "mean")}

    monkeypatch.setattr(Validation, "mrr_by_rule", mrr)
    step = {"untrained": 3, "checkpoint": 7, "hf": 5}
    load = lambda chosen, *_: dataclasses.replace(model, step=step[chosen.kind])  # noqa: E731
    (tmp_path / "hf").mkdir()
    names = {
        "a": {"kind": "untrained"},
        "model": {"kind": "checkpoint"},
        "other": {"kind": "hf", "path": str(tmp_path / "hf")},
    }
    config = {"evaluate": {**EVALUATE, "names": names, "rule": "validation", "validation_users": 2, "max_users": 2}}
    read = lambda name: json.loads((tmp_path / "results" / name / "results.json").read_text())  # noqa: E731

    monkeypatch.setattr(registry, "load_model", load)
    monkeypatch.setattr("cprec_jax.jobs.checks._hf_model", lambda _: None)
    jobs.evaluate(config, tmp_path, ["other"])  # the model that chooses has no result yet
    assert chosen_on == [7] and read("other")["scoring_rule"] == "mean" and read("other")["rule_chosen_on"] == "model"
    assert not (tmp_path / "results" / "model").exists()
    jobs.evaluate(config, tmp_path)
    assert [read(name)["scoring_rule"] for name in names] == ["mean"] * 3 and chosen_on == [7, 7]
    assert [name for name in names if "validation_mrr_by_rule" in read(name)["sets"]["Books"]] == ["model"]
    jobs.evaluate(config, tmp_path, ["a"])  # that it chose stands in its result
    assert read("a")["scoring_rule"] == "mean" and chosen_on == [7, 7]
    is_current = lambda name: jobs.state(config, tmp_path, f"results/{name}").word == "current"  # noqa: E731
    assert all(map(is_current, names))
    (tmp_path / "runs" / "cpt" / "manifest.json").write_text('{"params_sha256": "trained on"}')
    assert not any(map(is_current, names))


def test_titles_alike_tie_where_the_rule_is_chosen(
    evaluated, model: LoadedModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, ranked, noise, seen = validation._score_after, validation.rank, np.random.default_rng(0), []

    def rounded(*given: Any) -> np.ndarray:
        found = np.asarray(score(*given))
        return found + noise.normal(0, 1e-6, found.shape)

    def watched(scores: np.ndarray, target: np.ndarray) -> Any:
        seen.append(scores)
        return ranked(scores, target)

    monkeypatch.setattr(validation, "_score_after", rounded)
    monkeypatch.setattr(validation, "rank", watched)
    evaluated(using=with_twins(model, corpus), rule="validation", validation_users=2, max_users=2)
    for scores in seen:  # the target and 59 others are the whole catalogue
        assert all(len(np.unique(row)) == 30 for row in scores)


def test_the_checkpoint_is_chosen_on_validation(evaluated, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = tiny(seed=5, vocab_size=448, num_layers=2, max_position_embeddings=64)
    params = {3: model.params, 9: other}

    def load(chosen: Any, *_: Any) -> LoadedModel:
        return LoadedModel(
            decoder=model.decoder,
            params=params[chosen.step],
            catalogue=model.catalogue,
            template=model.template,
            step=chosen.step,
        )

    expected = {}
    for step in params:
        result, _ = evaluated(using=load(MethodSpec(kind="checkpoint", step=step)), split="valid", max_users=8)
        expected[step] = result["sets"]["Books"]["protocols"]["full"]["nll"]
    monkeypatch.setattr(select, "checkpoint_steps", lambda _: list(params))
    for module in (registry, select):
        monkeypatch.setattr(module, "load_model", load)
    result, _ = evaluated(
        using=load,
        names={"model": {"kind": "checkpoint", "step": "validation"}},
        validation_users=8,
        temperature=1.0,
        temperatures=(1.0,),
    )
    found = result["sets"]["Books"]["validation_nll_by_step"]
    assert {int(s): v for s, v in found.items()} == pytest.approx(expected, abs=1e-4)
    assert result["step"] == min(expected, key=expected.get)
