"""What a config with runs means: inheritance, starts, seeds, rows; and what is refused, in one line each."""

from typing import Any

import pytest

from cprec_jax import cli
from cprec_jax.config.root import Config, make_config
from cprec_jax.config.run import StartSpec
from cprec_jax.errors import UserError
from tests import road


def config(runs: dict[str, Any], **sections: dict[str, Any]) -> Config:
    raw = {**road.config(), "export": None, "runs": runs}
    raw["evaluate"] = {key: value for key, value in raw["evaluate"].items() if key != "names"}
    for name, changes in sections.items():
        raw[name] = {**raw[name], **changes}
    return make_config(raw)


def test_without_runs_there_is_one_called_cpt() -> None:
    built = make_config(road.CONFIG)
    assert (
        list(built.runs) == ["cpt"]
        and built.runs["cpt"].train == built.train
        and built.runs["cpt"].model == built.model
    )
    assert make_config({}).runs == {} and make_config({"evaluate": {"names": {"x": {"kind": "random"}}}}).runs == {}


def test_a_run_inherits_key_by_key_and_its_length_replaces_the_inherited_one() -> None:
    longer = {
        "train": {"tokens": 5120, "schedule": {"shape": "cosine"}, "optimizer": {"b2": 0.5}},
        "model": {"dropout": 0.0},
    }
    built = config(
        {"cpt": {}, "long": longer}, train={"schedule": {"peak": 0.25, "anneal": 0.5}, "epochs": 2.0, "steps": None}
    )
    long = built.runs["long"]
    assert (long.train.tokens, long.train.epochs, long.train.steps) == (5120, None, None) and built.runs[
        "cpt"
    ].train.epochs == 2.0
    assert (long.train.schedule.peak, long.train.schedule.anneal, long.train.schedule.shape) == (0.25, 0.5, "cosine")
    assert long.train.optimizer.b2 == 0.5 and long.train.optimizer.b1 == built.runs["cpt"].train.optimizer.b1
    assert long.model.dropout == 0.0 and long.model.hidden_size == built.model.hidden_size == 32


def test_lengths_may_come_with_the_runs_alone() -> None:
    built = config({"a": {"train": {"steps": 3}}, "b": {"train": {"epochs": 1.0}}}, train={"steps": None})
    assert built.runs["a"].train.steps == 3 and built.runs["b"].train.epochs == 1.0
    with pytest.raises(UserError, match=r"config.runs.b.train: set exactly one of steps, epochs, tokens \(now: none\)"):
        config({"a": {"train": {"steps": 3}}, "b": {}}, train={"steps": None})


def test_what_goes_on_has_no_warm_up_unless_it_asks_for_one() -> None:
    start = {"start": {"run": "cpt", "fraction": 0.5}}
    built = config(
        {"cpt": {}, "on": start, "asks": {**start, "train": {"schedule": {"warmup": 0.1}}}, "again": {"start": "cpt"}}
    )
    assert [built.runs[name].train.schedule.warmup for name in ("cpt", "on", "asks", "again")] == [0.03, 0.0, 0.1, 0.03]
    assert built.runs["on"].goes_on and not built.runs["again"].goes_on and built.runs["again"].parent == "cpt"


def test_those_that_others_start_from_come_first() -> None:
    built = config({"a": {"start": "b"}, "b": {"start": "c"}, "c": {}})
    assert list(built.runs) == ["c", "b", "a"]


def test_a_run_from_a_run_has_its_model() -> None:
    built = config(
        {"wide": {"model": {"hidden_size": 64}}, "next": {"start": "wide", "model": {"dropout": 0.5}}, "cpt": {}}
    )
    assert (
        built.runs["next"].model.hidden_size == 64
        and built.runs["next"].model.dropout == 0.5
        and built.runs["cpt"].model.hidden_size == 32
    )
    built = config({"cpt": {}, "other": {"start": {"hf": "some/model"}}})
    assert built.runs["other"].model.init_from == "some/model" and built.runs["other"].start == StartSpec(
        hf="some/model"
    )


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"base": {}}, r"config.runs.base: the name becomes a directory"),
        ({"a.b": {}}, r"config.runs.a.b: the name becomes a directory"),
        ({"cpt": {"stage": "dpo"}}, r"config.runs.cpt.stage: 'dpo' is not there yet"),
        ({"cpt": {"stage": "sftt"}}, r"config.runs.cpt.stage: 'sftt' is not one of 'cpt', 'sft'"),
        (
            {"cpt": {"sets": ("Garden",)}},
            r"config.runs.cpt.sets: belongs to the stage 'sft', and the run is of the stage 'cpt'",
        ),
        ({"cpt": {"sft": {}}}, r"config.runs.cpt.sft: belongs to the stage 'sft', and the run is of the stage 'cpt'"),
        ({"x": {"stage": "sft", "sets": ("G",), "cpt": {}}}, r"config.runs.x.cpt: belongs to the stage 'cpt'"),
        ({"x": {"stage": "sft", "sets": ()}}, r"config.runs.x: sets \(\): name at least one"),
        (
            {"x": {"stage": "sft", "sets": ("G",), "train": {"mixture": {}}}},
            r"config.runs.x.train.mixture: belongs to the stage 'cpt'",
        ),
        (
            {"x": {"stage": "sft", "sets": ("G",), "sft": {"users": 0.0}}},
            r"config.runs.x.sft: users 0.0 must lie in \(0, 1\]",
        ),
        ({"x": {"stage": "sft", "sets": ("G",), "sft": {"lm_weight": 0.5}}}, r"belong to the objective 'catalogue'"),
        (
            {"x": {"stage": "sft", "sets": ("G",), "sft": {"objective": "dpo"}}},
            r"config.runs.x.sft.objective: 'dpo' is not one of",
        ),
        ({"x": {"stage": "sft", "sets": ("G",), "select_from": (0.0, 1.0)}}, r"config.runs.x: select_from"),
        (
            {"x": {"stage": "sft", "sets": ("Garden",)}, "y": {"stage": "sft", "sets": ("Books",), "start": "x"}},
            r"config.runs.y.start: 'x' is a run per set \(Garden\), which none is of Books",
        ),
        ({"cpt": {"stage": "x"}}, r"config.runs.cpt.stage: 'x' is not one of 'cpt'"),
        ({"cpt": {}, "a": {"start": "ctp"}}, r"config.runs.a.start: no run 'ctp'; did you mean 'cpt'\?"),
        ({"a": {"start": "b"}, "b": {"start": "a"}}, r"config.runs.a.start: a ring: a starts from b starts from a"),
        ({"a": {"start": {"run": "a", "step": 3}}}, r"config.runs.a.start: a ring: a starts from a"),
        (
            {"cpt": {}, "a": {"start": {"run": "cpt"}}},
            r"config.runs.a.start: .*'run' needs either a fraction or a step",
        ),
        (
            {"cpt": {}, "a": {"start": {"run": "cpt", "fraction": 2.0}}},
            r"config.runs.a.start: fraction 2.0 must lie in 0..1",
        ),
        (
            {"cpt": {}, "a": {"start": "cpt", "model": {"num_layers": 3}}},
            r"config.runs.a.model.num_layers: the model is that of cpt",
        ),
        (
            {"a": {"start": {"hf": "x/y"}, "model": {"num_layers": 3}}},
            r"config.runs.a.model.num_layers: the model is that of x/y",
        ),
        ({"cpt": {"train": {"sead": 3}}}, r"config.runs.cpt.train.sead: unknown key; did you mean 'seed'\?"),
        (
            {"cpt": {"seeds": 2}, "a": {"start": "cpt", "seeds": 3}},
            r"config.runs.a.seeds: 3, but 'cpt', from which it starts, has 2",
        ),
        ({"cpt": {"seeds": 0}}, r"config.runs.cpt: seeds 0 must be at least 1"),
        ({"cpt": 3}, r"config.runs: expected a mapping from names to sections"),
    ],
)
def test_mistakes(runs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        config(runs)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_mistake_in_config_train_is_said_once() -> None:
    with pytest.raises(UserError) as caught:
        config({"a": {}, "b": {}}, train={"sead": 3})
    assert str(caught.value) == "config.train.sead: unknown key; did you mean 'seed'?"


def test_seeds_come_from_the_run_the_training_or_the_evaluation() -> None:
    runs = {"own": {"seeds": 4}, "cpt": {}}
    assert [config(runs, evaluate={"seeds": 3}).seeds_of(name) for name in runs] == [4, 3]
    assert [config(runs, evaluate={"seeds": 3}, train={"seeds": 2}).seeds_of(name) for name in runs] == [4, 2]
    assert config(runs).seeds_of("cpt") == 1


def test_rows_are_two_baselines_the_start_and_every_run() -> None:
    rows = config({"b": {"start": "a"}, "a": {}}).evaluate.names
    assert {name: (row.kind, row.run) for name, row in rows.items()} == {
        "random": ("random", None),
        "popularity": ("popularity", None),
        "untrained": ("untrained", "a"),
        "a": ("checkpoint", "a"),
        "b": ("checkpoint", "b"),
    }
    built = config({"a": {}, "b": {}}, evaluate={"names": {"row": {"run": "b", "label": "B"}}})
    assert built.evaluate.names["row"].kind == "checkpoint" and built.run_of_row(built.evaluate.names["row"]) == "b"
    with pytest.raises(UserError, match=r"config.evaluate.names.row.run: no run 'c'"):
        config({"a": {}, "b": {}}, evaluate={"names": {"row": {"run": "c"}}})
    with pytest.raises(UserError, match=r"config.evaluate.names.row.run: say which run; the config has a, b"):
        config({"a": {}, "b": {}}, evaluate={"names": {"row": {"kind": "checkpoint"}}})
    with pytest.raises(UserError, match=r"names: 'B' is what two rows are called"):
        config({"a": {}}, evaluate={"names": {"x": {"run": "a", "label": "B"}, "y": {"run": "a", "label": "B"}}})


def test_with_several_runs_it_must_be_said_what_is_exported() -> None:
    raw = {**road.config(), "runs": {"a": {}, "b": {}}, "evaluate": {}}
    with pytest.raises(UserError, match=r"config.export.runs: say which runs; the config has a, b"):
        make_config(raw)
    with pytest.raises(UserError, match=r"config.export.runs: no run 'c'"):
        make_config({**raw, "export": {"runs": ["c"]}})
    assert make_config({**raw, "export": {"runs": ["b"]}}).export is not None


def test_an_override_changes_what_the_config_names_and_adds_nothing(tmp_path) -> None:
    path = tmp_path / "config.py"
    path.write_text("def get_config():\n    return {'train': {'steps': 4}, 'runs': {'cpt': {}, 'long': {}}}\n")
    built = make_config(cli.load_config(str(path), {"runs.long.train.steps": "9", "runs.cpt.seeds": "2"}))
    assert built.runs["long"].train.steps == 9 and built.seeds_of("cpt") == 2
    with pytest.raises(
        UserError, match=r"--config.runs.lng.seeds: the config names no runs.lng; did you mean 'long'\?"
    ):
        cli.load_config(str(path), {"runs.lng.seeds": "2"})
    with pytest.raises(UserError, match=r"--config.evaluate.names.x.kind: the config names no evaluate.names.x"):
        cli.load_config(str(path), {"evaluate.names.x.kind": "random"})
    plain = cli.load_config("configs/quickstart.py", {"runs.cpt.train.seed": "5"})
    assert make_config(plain).runs["cpt"].train.seed == 5


SOURCES = [
    {"name": name, "role": role, "adapter": "synthetic"}
    for name, role in (("Books", "pretrain"), ("Garden", "downstream"))
]


def test_fine_tuning_is_a_run_per_downstream_set_unless_sets_are_named_or_together() -> None:
    raw = {
        "corpus": {"sources": [*SOURCES, {**SOURCES[1], "name": "Toys"}]},
        "train": {"steps": 3, "mixture": {"temperature": 0.5}},
    }
    sft = {"stage": "sft", "start": "cpt"}
    config = make_config(
        {**raw, "runs": {"cpt": {}, "each": sft, "both": {**sft, "together": True}, "one": {**sft, "sets": ("Books",)}}}
    )
    assert {name: config.parts_of(name) for name in config.runs} == {
        "cpt": (None,),
        "each": ("Garden", "Toys"),
        "both": (None,),
        "one": ("Books",),
    }
    assert config.sets_of("both") == ("Garden", "Toys") and config.sets_of("cpt") == ()
    assert config.runs["each"].select == "ndcg@10" and config.runs["cpt"].select == "last"
    assert config.runs["each"].train.mixture.temperature == 1.0, "pre-training alone has a mixture"
    with pytest.raises(
        UserError, match=r"config.runs.x.sets: no source of config.corpus is called 'Gardn'; did you mean 'Garden'\?"
    ):
        make_config({**raw, "runs": {"x": {"stage": "sft", "sets": ("Gardn",)}}})
    with pytest.raises(UserError, match=r"config.runs.x.sets: name the sets; the config has no section `corpus`"):
        make_config({"train": {"steps": 3}, "runs": {"x": {"stage": "sft"}}})
    with pytest.raises(
        UserError,
        match=r"config.runs.x.sets: the corpus has no downstream set; name the sets to fine-tune on, such as 'B",
    ):
        make_config({**raw, "corpus": {"sources": SOURCES[:1]}, "runs": {"x": {"stage": "sft"}}})


def test_rows_are_packed_for_what_the_runs_read() -> None:
    raw = {"corpus": {"sources": SOURCES}, "train": {"steps": 3}}
    sft = {"stage": "sft"}
    runs = {"sft": sft, "last": {**sft, "sft": {"targets": "last", "users": 0.1}}, "books": {**sft, "sets": ("Books",)}}

    def rows(**more: Any) -> dict[str, tuple[str, ...]]:
        return {kind.name: sets for kind, sets in make_config({**raw, **more}).rows_kinds.items()}

    assert rows() == {"cpt": ()}
    assert rows(runs=runs) == {"sft": ("Garden", "Books"), "sft-last-0.1": ("Garden",)}, (
        "nothing to pre-train on, no such rows"
    )
    assert rows(runs={"cpt": {}, **runs}, pack={"stages": ("sft",)}) == {**rows(), **rows(runs=runs)}
    assert rows(pack={"stages": ("cpt", "sft")}) == {"cpt": (), "sft": ("Garden",)}


def test_an_adapter_is_a_section_of_a_run_of_any_stage() -> None:
    built = config({"cpt": {}, "low": {"start": "cpt", "lora": {"rank": 4}}, "plain": {"start": "low"}})
    low = built.runs["low"].lora
    assert low is not None and (low.rank, low.alpha, low.targets) == (4, 64.0, ("layers/*",))
    assert built.runs["plain"].lora is None and built.runs["cpt"].lora is None, "it is not inherited"


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 0}, r"config.runs.low.lora: rank 0 must be at least 1"),
        ({"alpha": -1.0}, r"config.runs.low.lora: alpha -1.0 must be above 0 and finite"),
        ({"dropout": 1.0}, r"config.runs.low.lora: dropout 1.0 must lie in \[0, 1\)"),
        ({"targets": ()}, r"config.runs.low.lora: targets: name at least one pattern"),
        ({"ranks": 4}, r"config.runs.low.lora.ranks: unknown key; did you mean 'rank'\?"),
    ],
)
def test_settings_of_an_adapter_that_are_refused(lora: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config({"low": {"lora": lora}})


@pytest.mark.parametrize(("before", "after"), [(None, {}), ({}, None), ({"rank": 4}, {"rank": 8})])
def test_moments_belong_to_the_parameters_that_were_trained(before: Any, after: Any) -> None:
    on = {"start": {"run": "low", "fraction": 0.5}, "lora": after}
    with pytest.raises(
        UserError,
        match=r"config.runs.on.lora: 'low' trains (no adapter|an adapter with rank=\d+, alpha=64.0, .*), and so must",
    ):
        config({"low": {"lora": before}, "on": on})
    assert config({"low": {"lora": {}}, "on": {**on, "lora": {"dropout": 0.1}}}).runs["on"].goes_on
