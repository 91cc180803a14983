"""The job on a tiny corpus with a random model: exact, and untouched by how users are batched, ordered or spread over
devices."""

import copy
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate.eval_set import open_set
from cprec_jax.evaluate.metrics import METRICS, random_ranker
from cprec_jax.evaluate.ranks_file import read_user_metrics
from cprec_jax.inference.title_tokens import titles_alike
from cprec_jax.inference.trie.search import search
from cprec_jax.methods import beam_recall, registry, title_model, token_likelihood
from cprec_jax.train.open import LoadedModel
from tests import run_jobs as jobs
from tests.evaluate.world import EVALUATE, brute, column, with_twins


def test_ranks_and_nll_are_those_of_brute_force(evaluated, model: LoadedModel, corpus: Corpus) -> None:
    result, ranks = evaluated()
    trie, _, data = brute(model, corpus, users=4)
    rows = np.arange(4)
    np.testing.assert_allclose(column(ranks, "nll")[:4], -trie[rows, data.target[:4]], atol=1e-4)
    assert np.array_equal(column(ranks, "user"), data.targets.user) and np.array_equal(
        column(ranks, "target"), data.targets.target
    )
    for user in rows:
        here = data.candidates["u20"][user]
        better = trie[user] > trie[user, data.target[user]] + 1e-4
        assert column(ranks, "n_better", "u20")[user] == better[here].sum()
        assert column(ranks, "n_candidates", "u20")[user] == 20
    assert result["step"] == 7 and result["scoring_rule"] == "trie" and result["sets"]["Books"]["temperature"] == 1.0
    assert result["cost"]["users_per_second"] > 0 and result["sets"]["Books"]["skeleton_nodes"] > 0


@pytest.mark.parametrize("rule", ["sum", "mean"])
def test_the_other_rules(evaluated, model: LoadedModel, corpus: Corpus, rule: str) -> None:
    _, ranks = evaluated(rule=rule, node_chunk=64)
    _, total, data = brute(model, corpus, users=4)
    rows = np.arange(4)
    scores = total / model.catalogue.lengths[data.items] if rule == "mean" else total
    for user in rows:
        better = scores[user] > scores[user, data.target[user]] + 1e-4
        assert column(ranks, "n_better", "u20")[user] == better[data.candidates["u20"][user]].sum()
    # the NLL is that of the whole catalogue, whatever the rule ranks by
    expected = np.logaddexp.reduce(total, axis=1) - total[rows, data.target[:4]]
    np.testing.assert_allclose(column(ranks, "nll")[:4], expected, atol=1e-3)
    only, sampled = evaluated(rule=rule, protocols=("u20",))
    assert set(only["sets"]["Books"]["protocols"]) == {"u20"}
    assert np.array_equal(column(sampled, "n_better", "u20"), column(ranks, "n_better", "u20"))
    assert sampled["nll"].null_count == len(sampled)


@pytest.mark.parametrize("changes", [{"batch_users": 5, "node_chunk": 30}, {"devices": 8}, {"batch_tokens": 100_000}])
def test_batches_groups_and_devices_change_nothing(evaluated, changes: dict[str, Any]) -> None:
    expected, ranks = evaluated()
    found, others = evaluated(**changes)
    for name in ("n_better", "n_tied", "target"):
        assert np.array_equal(column(ranks, name), column(others, name))
    np.testing.assert_allclose(column(others, "nll"), column(ranks, "nll"), atol=1e-4)
    assert found["sets"]["Books"]["users"] == expected["sets"]["Books"]["users"]


def test_fewer_users_are_part_of_more(evaluated) -> None:
    _, many = evaluated(max_users=None)
    _, few = evaluated(max_users=5)
    at = np.searchsorted(column(many, "user"), column(few, "user"))
    assert np.array_equal(column(many, "n_better")[at], column(few, "n_better")) and len(at) == 5


@pytest.mark.parametrize("mask", ["auto", "never"])
def test_ranks_to_gives_the_same_up_to_there(evaluated, monkeypatch: pytest.MonkeyPatch, mask: str) -> None:
    monkeypatch.setattr(EvaluateSpec, "__post_init__", lambda _: None)  # 100 would be the whole of this catalogue
    expected, ranks = evaluated(mask_history=mask)
    found, others = evaluated(mask_history=mask, ranks_to=8)
    np.testing.assert_allclose(column(others, "nll"), column(ranks, "nll"), atol=1e-4)
    exact, partial = column(ranks, "n_better"), column(others, "n_better")
    assert np.array_equal(partial[exact < 8], exact[exact < 8]) and (partial[exact >= 8] >= exact[exact >= 8]).all()
    assert 0 < (exact < 8).sum() < len(exact)
    assert np.array_equal(column(ranks, "n_better", "u20"), column(others, "n_better", "u20"))
    values = found["sets"]["Books"]
    assert values["ranks_exact_to"] == 8 and "score_length_correlation" not in values
    assert "coverage@10" in values and "popularity_percentile@10" in values
    assert "score_length_correlation" in expected["sets"]["Books"]


@pytest.mark.parametrize("changes", [{"ranks_to": 20}, {"beam": 2}], ids=str)
def test_a_search_takes_one_of_eight_devices(
    evaluated, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: dict[str, int]
) -> None:
    """Parameters on all of them would make every device do the whole work."""
    monkeypatch.setattr(EvaluateSpec, "__post_init__", lambda _: None)
    used = []

    def watched(decoder: Any, params: Any, index: Any, cache: Any, *rest: Any, **named: Any) -> Any:
        used.append({device for leaf in jax.tree.leaves((params, cache)) for device in leaf.sharding.device_set})
        return search(decoder, params, index, cache, *rest, **named)

    for module in (title_model, beam_recall):
        monkeypatch.setattr(module, "search", watched)
    evaluated(devices=8, max_users=2, **changes)
    assert used and all(len(devices) == 1 for devices in used)
    assert "search on one device of 8" in capsys.readouterr().err


def test_recall_of_a_beam_stands_beside_the_exact_ranking(evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, ranks = evaluated()
    assert "beam" not in expected["sets"]["Books"]
    narrow, others = evaluated(beam=2)
    assert np.array_equal(column(ranks, "n_better"), column(others, "n_better")), "no rank comes from the beam"
    found = narrow["sets"]["Books"]["beam"]
    assert found["width"] == 2 and 0 < found["recall@10"] < 1 and found["recall@1"] <= 1 and "recall@100" not in found
    monkeypatch.setattr(EvaluateSpec, "__post_init__", lambda _: None)  # 100 would be the whole of this catalogue
    assert evaluated(beam=2, ranks_to=20)[0]["sets"]["Books"]["beam"] == found
    wide = evaluated(beam=1000)[0]["sets"]["Books"]["beam"]
    assert (
        wide["recall@1"] == wide["recall@10"] == 1 and wide["nodes_visited_per_user"] > found["nodes_visited_per_user"]
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"ranks_to": 20}, {"rule": "sum", "node_chunk": 64}, {"rule": "mean", "protocols": ("u20",)}],
    ids=str,
)
def test_titles_tokenised_alike_tie_and_are_counted(
    evaluated, model: LoadedModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Every user's target has a twin of the same tokens, by whatever rule, and however a device rounds."""
    score, noise = token_likelihood._score_after, np.random.default_rng(0)

    def rounded(*given: Any) -> np.ndarray:
        found = np.asarray(score(*given))
        return found + noise.normal(0, 1e-6, found.shape)

    monkeypatch.setattr(token_likelihood, "_score_after", rounded)
    monkeypatch.setattr(EvaluateSpec, "__post_init__", lambda _: None)  # 100 would be the whole of this catalogue
    result, ranks = evaluated(
        using=with_twins(model, corpus), **{"mask_history": "never", "protocols": ("full",), **changes}
    )
    assert result["sets"]["Books"]["titles_tokenised_alike"] == 60
    if "protocols" not in changes:
        assert (column(ranks, "n_tied")[column(ranks, "n_better") < 20] % 2 == 1).all()
    else:
        targets = corpus.targets("test", "Books")
        who = np.searchsorted(targets.user, column(ranks, "user", "u20"))
        start = corpus.catalogue("Books")[0]
        twin = ((targets.target[who] - start) ^ 1) + start
        has_twin = (corpus.candidates("test", "Books", "u20")[who] == twin[:, None]).any(axis=1)
        assert 0 < has_twin.sum() < len(has_twin)
        np.testing.assert_array_equal(column(ranks, "n_tied", "u20") % 2 == 1, has_twin)
    assert titles_alike(model.catalogue, corpus.catalogue("Books")) == 0


@pytest.mark.parametrize("given", ["other", "other/runs/cpt", "runs/cpt"])
def test_a_checkpoint_of_another_work_directory(evaluated, model: LoadedModel, tmp_path: Path, given: str) -> None:
    """Its path, or that of its run; a work directory may itself be called runs/cpt."""
    other = tmp_path / given.removesuffix("/runs/cpt")
    (other / "runs" / "cpt").mkdir(parents=True)
    (other / "runs" / "cpt" / "manifest.json").write_text('{"params_sha256": "z"}')
    opened = []
    names = {"model": {"kind": "checkpoint", "path": str(tmp_path / given)}}
    evaluated(using=lambda _, __, workdir, ___, run: opened.append((workdir, run)) or model, names=names, max_users=2)
    assert opened == [(other, other / "runs" / "cpt")]
    made_from = json.loads((tmp_path / "results" / "model" / "manifest.json").read_text())["made_from"]
    assert made_from["facts"] == {"config.evaluate.names.model.path": ["z"]}


def test_a_model_of_nan_is_refused(evaluated, model: LoadedModel) -> None:
    params = {**model.params, "final_norm": jnp.full_like(model.params["final_norm"], jnp.nan)}
    broken = LoadedModel(
        decoder=model.decoder, params=params, catalogue=model.catalogue, template=model.template, step=1
    )
    with pytest.raises(UserError, match=r"model on Books: score nan .* must be finite"):
        evaluated(using=broken)


def test_equal_scores_are_the_random_row(evaluated) -> None:
    result, ranks = evaluated(name="chance", names={"chance": {"kind": "random"}})
    values = result["sets"]["Books"]
    for protocol, n in (("full_unmasked", 60), ("u20", 20)):
        found = {name: values["protocols"][protocol][name] for name in METRICS}
        assert found == pytest.approx({name: random_ranker(n)[name] for name in METRICS})
    assert values["protocols"]["full"]["nll"] == pytest.approx(np.log(60)) == values["uniform_nll"]
    assert set(column(ranks, "n_better")) == {0} and "coverage@10" not in values


def test_perplexity_on_a_general_text_stands_beside_the_sets(evaluated, tmp_path: Path) -> None:
    path = tmp_path / "general.txt"
    path.write_text("some words that no title has " * 20)
    result, _ = evaluated(general_text=str(path), max_users=2)
    found = result["general_text"]
    assert (
        found["perplexity"] > 1
        and found["tokens"] > 50
        and found["file"] == "general.txt"
        and len(found["sha256"]) == 64
    )
    plain, _ = evaluated(name="chance", names={"chance": {"kind": "random"}}, general_text=str(path))
    assert "general_text" not in plain


def test_cut_histories_are_counted(evaluated, capsys: pytest.CaptureFixture[str]) -> None:
    result, _ = evaluated(prompt_tokens=14)
    values = result["sets"]["Books"]
    assert values["users_with_dropped_history"] > 0 and values["items_dropped"] >= values["users_with_dropped_history"]
    told = capsys.readouterr().err
    assert (
        "oldest items were dropped" in told
        and values["users_with_all_history_dropped"] == 0
        and "nothing is left" not in told
    )


def test_users_whose_whole_history_is_dropped_are_counted(
    evaluated, model: LoadedModel, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the newest item alone exceeds the prompt, the model sees the header alone."""
    room = 1
    data = open_set(corpus, "Books", "test", ("full",), True, EVALUATE["max_users"], 0)
    newest = model.catalogue.lengths[data.targets.items[data.targets.offsets[1:] - 1]]
    result, _ = evaluated(prompt_tokens=len(model.template.header("Books")) + room)
    values = result["sets"]["Books"]
    assert values["users_with_all_history_dropped"] == (newest > room).sum() > 0
    assert f"of {(newest > room).sum()} nothing is left" in capsys.readouterr().err


def test_a_prompt_that_leaves_no_room_is_refused(evaluated) -> None:
    with pytest.raises(UserError, match="do not fit the model's context of 64; use at most"):
        evaluated(prompt_tokens=64)


def test_histories_are_masked_only_where_nobody_repeats(evaluated, corpus: Corpus, tmp_path: Path) -> None:
    assert corpus.sets["Books"].repeats is False
    masked, ranks = evaluated()
    never, unmasked = evaluated(mask_history="never")
    assert masked["sets"]["Books"]["history_masked"] and not never["sets"]["Books"]["history_masked"]
    assert np.array_equal(column(ranks, "n_better", "full_unmasked"), column(unmasked, "n_better"))
    assert (column(ranks, "n_candidates") < 60).all() and (column(unmasked, "n_candidates") == 60).all()
    assert (column(ranks, "n_better") <= column(unmasked, "n_better")).all()
    np.testing.assert_allclose(column(ranks, "nll"), column(unmasked, "nll"), atol=1e-6)
    assert "full_unmasked" not in never["sets"]["Books"]["protocols"]


def test_slices_partition_the_users(evaluated) -> None:
    result, ranks = evaluated(max_users=None)
    slices, n = result["sets"]["Books"]["slices"], result["sets"]["Books"]["users"]
    size = {name: part["users"] for name, part in slices.items()}
    assert sum(size[name] for name in size if name.startswith("history")) == n
    assert size.get("never seen", 0) + size.get("cold", 0) + size["warm"] == n
    assert size.get("seen users", 0) + size.get("unseen users", 0) == n
    total = sum(slices[name]["nll"] * size[name] for name in ("never seen", "cold", "warm") if name in size)
    assert total / n == pytest.approx(column(ranks, "nll").mean(), rel=1e-4)


def test_a_missing_general_text_is_noticed_before_any_ranking(evaluated, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.evaluate.general_text: .*absent.txt: cannot be read"):
        evaluated(using=lambda *_: pytest.fail("a model was loaded"), general_text=str(tmp_path / "absent.txt"))


def test_a_result_on_validation_users_leaves_the_test_result_alone(evaluated, tmp_path: Path) -> None:
    names = {"popularity": {"kind": "popularity"}}
    tested, _ = evaluated("popularity", names=names)
    jobs.evaluate({"evaluate": {**EVALUATE, "names": names, "split": "valid", "protocols": ["full"]}}, tmp_path)
    validated = json.loads((tmp_path / "results-valid/popularity/results.json").read_text())
    assert validated["split"] == "valid" and tested["split"] == "test"
    assert json.loads((tmp_path / "results/popularity/results.json").read_text()) == tested


def test_settings_that_change_no_result_leave_it_current(corpus: Corpus, evaluated, tmp_path: Path) -> None:
    names = {**EVALUATE["names"], "gru": {"kind": "gru4rec"}, "other": {"kind": "random"}}

    def inputs(name: str = "model", **changes: Any) -> dict[str, Any]:
        return jobs.made_from({"evaluate": {**EVALUATE, "names": names, **changes}}, tmp_path, f"results/{name}")

    assert inputs() == inputs(batch_users=3, node_chunk=9, devices=2, names=EVALUATE["names"])
    assert (
        inputs() != inputs(prompt_tokens=39)
        and inputs() != inputs(temperature=2.0)
        and inputs() != inputs(ranks_to=100)
        and inputs() != inputs(beam=3)
    )
    text, same = tmp_path / "text.txt", tmp_path / "same.txt"
    text.write_text("some text")
    same.write_text("some text")
    assert inputs() != inputs(general_text=str(text)) == inputs(general_text=str(same))
    of_models: dict[str, Any] = {"general_text": str(text), "prompt_tokens": 39, "temperature": 2.0}
    for name in ("gru", "other"):  # what only language models look at
        assert (
            inputs(name)
            == inputs(name, **of_models, ranks_to=100, beam=3)
            == inputs(name, pmi=0.5)
            == inputs(name, rule="sum")
        )
        assert inputs(name) != inputs(name, max_users=3)


def test_a_target_outside_its_catalogue_is_refused(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = corpus.targets("test", "Books")
    changed = copy.copy(vars(targets)) | {"target": np.where(np.arange(len(targets)) == 3, 100, targets.target)}
    monkeypatch.setattr(Corpus, "targets", lambda *_: type(targets)(**changed))
    with pytest.raises(UserError, match="target 100 is not in its catalogue"):
        open_set(corpus, "Books", "test", ("full",), True, None, 0)


def test_seeds_of_runs(
    evaluated, corpus: Corpus, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of two seeds: metrics are means over both, ranks are those of each."""
    alone, single = evaluated()
    other = LoadedModel(
        decoder=model.decoder,
        params={**model.params, "final_norm": -model.params["final_norm"]},
        catalogue=model.catalogue,
        template=model.template,
        step=7,
    )
    (tmp_path / "runs" / "cpt.seed-1").mkdir()
    (tmp_path / "runs" / "cpt.seed-1" / "manifest.json").write_text('{"params_sha256": "y"}')
    load = lambda *arguments: other if arguments[-1].name == "cpt.seed-1" else model  # noqa: E731
    monkeypatch.setattr(registry, "load_model", load)
    jobs.evaluate({"evaluate": {**EVALUATE, "seeds": 2}}, tmp_path)
    result = json.loads((tmp_path / "results" / "model" / "results.json").read_text())
    ranks = pq.read_table(tmp_path / "results" / "model" / "ranks.parquet")
    full = result["sets"]["Books"]["protocols"]["full"]
    assert result["seeds"] == [0, 1] and len(full["by_seed"]["mrr"]) == 2
    assert result["cost"]["users_per_second"] * result["cost"]["seconds_by_set"]["Books"] == pytest.approx(24), (
        "12 users, twice"
    )
    assert full["mrr"] == pytest.approx(np.mean(full["by_seed"]["mrr"]))
    assert (
        full["by_seed"]["mrr"][0]
        == pytest.approx(alone["sets"]["Books"]["protocols"]["full"]["mrr"])
        != full["by_seed"]["mrr"][1]
    )
    assert (
        np.array_equal(column(ranks, "n_better")[:12], column(single, "n_better")) and len(column(ranks, "seed")) == 24
    )
    assert read_user_metrics(tmp_path / "results" / "model").values["Books"]["mrr"].mean() == pytest.approx(full["mrr"])
    with pytest.raises(
        UserError,
        match=r"seed-2: not there; `launch.py train` with this config trains it, or set config.train.seeds = 1",
    ):
        jobs.evaluate({"evaluate": {**EVALUATE, "seeds": 3}}, tmp_path)
    jobs.evaluate({"evaluate": {**EVALUATE, "seeds": 3}, "train": {"seeds": 1, "steps": 1}}, tmp_path)
    assert json.loads((tmp_path / "results" / "model" / "results.json").read_text())["seeds"] == [0]
