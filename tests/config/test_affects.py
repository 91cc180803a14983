"""What a field says that it affects is what is out of date when it changes: every field of every section, found by a
walk."""

import dataclasses
import json
import os
import shutil
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.artefact import MADE_FROM, MANIFEST, write_json
from cprec_jax.config.affects import Leaf, leaves, settings_of
from cprec_jax.config.build import convert, section_class
from cprec_jax.config.root import Config, check_runs, make_config
from cprec_jax.graph import Graph
from cprec_jax.jobs.graph_of import graph_of

ROWS = ("random", "popularity", "knn", "cpt", "foreign", "scores", "sas", "titles", "both")
MODELS = ("results/cpt", "results/foreign", "results/titles")  # `titles` starts from the hidden states of `cpt`
OF_KIND: dict[str, tuple[str, ...]] = {
    "corpus": ("corpus",),
    "rows": ("rows/cpt", "rows/sft"),
    "rows.cpt": ("rows/cpt",),
    "runs": ("runs/cpt", "runs/cpt.seed-1"),
    "results": tuple(f"results/{row}" for row in ROWS),
    "results.model": MODELS,
    "results.runs": ("results/cpt", "results/titles"),
    "results.hf": ("results/foreign",),
    "results.sequential": ("results/sas", "results/titles", "results/both"),
    "results.text_knn": ("results/knn", "results/both"),
    "results.ensemble": ("results/both",),
    "results:cpt": ("results/cpt", "results/titles"),
    "results:knn": ("results/knn", "results/both"),
    "results:sas": ("results/sas", "results/both"),
    "export": ("export/cpt",),
    "report": ("report",),
    **{f"results:{row}": (f"results/{row}",) for row in ROWS if row not in ("cpt", "knn", "sas")},
}
TRIED: dict[Any, tuple[Any, ...]] = {
    bool: (True, False),
    int: (1, 2, 3, 7, 64, 128, 384),
    float: (0.25, 0.5, 0.75, 2.0),
    str: (
        "other",
        "cpt",
        "3:5",
        "knn",
        "latin-1",
        ";",
        "|",
        "local[2]",
        "table",
        "movielens",
        "paragraph",
        "3GB",
        "1GiB",
        "3:5",
        "0" * 64,
        "0" * 32,
        "http://b/c",
    ),
}
TUPLES = (
    ("jsonl",),
    ("cpt",),
    ("jsonl",),
    ("u20",),
    ("full", "u20"),
    ("Books",),
    (0.5,),
    (0.1, 0.3),
    (3,),
    ("words 1",),
    ("bm25",),
    ("sas", "random"),
    ("spark.a=b",),
    ("one",),
    ("merged", "adapter"),
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A config in which every field occurs: every optional section is given, every kind of row is there."""
    folder = tmp_path_factory.mktemp("raw")
    for name in ("inter.tsv", "item.tsv", "text.txt", "scores.csv"):
        (folder / name).write_text("user,item,score\n")
    (folder / "hf").mkdir()
    (folder / "hf" / "config.json").write_text("{}")
    table = {"role": "pretrain", "interactions": str(folder / "inter.tsv"), "items": str(folder / "item.tsv")}
    remote = {"url": "http://a/b", "sha256": "1" * 64}
    return {
        "name": "one",
        "corpus": {
            "sources": [
                {"name": "Books", **table, "urls": {"interactions": remote}},
                {
                    "name": "Games",
                    "role": "downstream",
                    "adapter": "ninerec",
                    **{k: table[k] for k in ("interactions", "items")},
                },
            ],
            "times": {"default": {"t1": 4, "t2": 9}},
        },
        "text": {"tokenizer": "train"},
        "pack": {"stages": ("cpt", "sft"), "text": {"files": (str(folder / "text.txt"),)}},
        "train": {"steps": 5, "global_batch": 64, "seeds": 2, "anneal_mixture": {"temperature": 0.5}},
        "evaluate": {
            "names": {
                "random": {"kind": "random"},
                "popularity": {"kind": "popularity"},
                "knn": {"kind": "text_knn"},
                "cpt": {"kind": "checkpoint"},
                "foreign": {"kind": "hf", "path": str(folder / "hf")},
                "scores": {"kind": "scores", "path": str(folder / "scores.csv")},
                "sas": {"kind": "sasrec"},
                "titles": {"kind": "sasrec", "init": "cpt"},
                "both": {"kind": "ensemble", "members": ("knn", "sas")},
            },
            "general_text": str(folder / "text.txt"),
        },
        "export": {},
    }


def pretend(graph: Graph) -> None:
    """Every artefact as if it had been made."""
    for artefact in graph.artefacts:
        artefact.path.mkdir(parents=True, exist_ok=True)
        content = {key: artefact.name for key in ("corpus_hash", "rows_hash", "params_sha256", "results_hash")}
        record = {MADE_FROM: graph.made_from(artefact), "inputs_hash": artefact.name, **content}
        write_json(artefact.path / MANIFEST, record)
        write_json(artefact.path / artefact.record, record)


def states(graph: Graph) -> dict[str, str]:
    return {artefact.name: graph.state(artefact).word for artefact in graph.artefacts}


def changed(section: Any, keys: list[str], value: Any) -> Any:
    """The section with one value changed; `ValueError` where that is not valid."""
    key, *rest = keys
    if isinstance(section, Mapping):
        return {**section, key: changed(section[key], rest, value)}
    if isinstance(section, tuple):
        return tuple(changed(entry, rest, value) if entry.name == key else entry for entry in section)
    return dataclasses.replace(section, **{key: value if not rest else changed(getattr(section, key), rest, value)})


def candidates(hint: Any) -> Iterator[Any]:
    """Values to try for a field of this type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in TRIED:
        yield from TRIED[hint]
    elif origin is typing.Literal:
        yield from args
    elif origin is tuple:
        yield from TUPLES
    elif dataclasses.is_dataclass(hint):
        return
    elif args and origin not in (dict, Mapping):
        for arg in args:
            yield from candidates(arg)
    elif hint is type(None):
        yield None
    else:
        yield {"Books": 0.5}
        yield {"Books": {"kind": 3}}
        yield {"source": "here", "Books": {"row": {"hr@10": 0.5}}}


def copies(value: Any) -> Iterator[Any]:
    if isinstance(value, list) and len(value) == 1:
        yield from ((entry,) for entry in copies(value[0]))
    elif isinstance(value, str) and os.path.isabs(value):
        path = Path(value)
        target = path.with_name(f"copy of {path.name}")
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)
        yield str(target)


def hint_of(leaf: Leaf, classes: Mapping[str, type]) -> Any:
    name, field = leaf.field.split(".")
    return typing.get_type_hints(classes[name])[field]


def section_classes(cls: type = Config) -> dict[str, type]:
    """All classes of sections that a config can hold, by name."""
    classes = {cls.__name__: cls}
    for hint in typing.get_type_hints(cls).values():
        for part in (hint, *typing.get_args(hint)):
            inner = section_class(part)
            if inner is not None and inner.__name__ not in classes:
                classes |= section_classes(inner)
    return classes


def other_value(config: Config, leaf: Leaf, classes: Mapping[str, type]) -> Config | None:
    """The config with another valid value of a leaf; of one that counts by content, the path of a copy."""
    for value in copies(leaf.value) if leaf.content else candidates(hint_of(leaf, classes)):
        try:
            changed_config = changed(config, leaf.key.split("."), convert(hint_of(leaf, classes), value, leaf.key))
            check_runs(changed_config)
        except (ValueError, TypeError):
            continue
        if any(other_leaf.key == leaf.key and other_leaf.value != leaf.value for other_leaf in leaves(changed_config)):
            runs = {
                name: dataclasses.replace(run, train=changed_config.train, model=changed_config.model)
                for name, run in changed_config.runs.items()
            }
            return dataclasses.replace(changed_config, runs=runs)
    return None


# Fields that no other value can be given in this config: what each needs instead is a case of its own.
ELSEWHERE = {
    "SourceSpec.name": "another name is another set",
    "SourceSpec.tfds_split": "only with adapter tfds, which needs a dataset on disk",
    "TrainSpec.epochs": "only instead of steps",
    "TrainSpec.tokens": "only instead of steps",
    "MethodSpec.kind": "another kind is another row",
    "TextSpec.tokenizer": "a directory instead of a training",
    "ModelSpec.init_from": "a directory",
    "PlainTextSpec.root": "where files are is nothing",
}


def descendants(graph: Graph, names: set[str]) -> set[str]:
    below: set[str] = set()
    for artefact in graph.artefacts:  # inputs come first
        if any(input_.name in names | below for input_ in (*artefact.inputs, *artefact.shows)):
            below.add(artefact.name)
    return below - names


def check(leaf: Leaf, config: Config, workdir: Path, before: Graph) -> None:
    graph = graph_of(config, workdir)
    known = {artefact.name for artefact in before.artefacts}
    stale = {name for kind in leaf.affects for name in OF_KIND[kind]} & known if not leaf.content else set()
    waiting = descendants(before, stale)
    expected = {name: "out of date" if name in stale else "waits" if name in waiting else "current" for name in known}
    states_after = {name: word for name, word in states(graph).items() if name in known}
    names = {artefact.name for artefact in graph.artefacts}
    if {name for name in names ^ known if not name.startswith("rows")}:  # the report shows others then
        expected["report"] = "out of date"
    assert states_after == {name: word for name, word in expected.items() if name in states_after}, (
        f"{leaf.key} ({leaf.field})"
    )


def test_every_field_affects_what_it_says(raw: dict[str, Any], tmp_path: Path) -> None:
    variants = [
        raw,
        *({**raw, "train": {**raw["train"], "optimizer": {"kind": kind}}} for kind in ("adafactor", "muon")),
        {**raw, "train": {**{k: v for k, v in raw["train"].items() if k != "steps"}, "epochs": 1.0}},
        {**raw, "train": {**{k: v for k, v in raw["train"].items() if k != "steps"}, "tokens": 64}},
        *({**raw, "train": {**raw["train"], "optimizer": {"kind": kind}}} for kind in ("muon", "adafactor")),
    ]
    classes = section_classes()
    fields = {f"{cls.__name__}.{field.name}" for cls in classes.values() for field in dataclasses.fields(cls)}
    sections = {
        f"{cls.__name__}.{field.name}"
        for cls in classes.values()
        for field in dataclasses.fields(cls)
        if section_class(typing.get_type_hints(cls)[field.name]) is typing.get_type_hints(cls)[field.name]
        or cls is Config
    }
    tested: set[str] = set()
    for number, variant in enumerate(variants):
        workdir = tmp_path / str(number)
        config = make_config(variant)
        graph = graph_of(config, workdir)
        pretend(graph)
        assert set(states(graph_of(config, workdir)).values()) == {"current"}
        for leaf in leaves(config):
            if leaf.field in tested:
                continue
            changed_config = other_value(config, leaf, classes)
            if (
                changed_config is not None and leaf.field != "EvaluateSpec.split"
            ):  # whose results are others, in another folder
                check(leaf, changed_config, workdir, graph)
            if changed_config is not None:
                tested.add(leaf.field)
    # sections by name: their fields were tested
    held = {
        "EvaluateSpec.names",
        "SourceSpec.urls",
        "CorpusSpec.sources",
        "CorpusSpec.times",
    }
    of_runs = ("RunSpec.", "StartSpec.", "CptSpec.", "SftSpec.", "LoraSpec.")  # below, and tests/config/test_runs.py
    in_runs = {field for field in fields if field.startswith(of_runs)}
    assert fields - tested - sections - held - in_runs - set(ELSEWHERE) == {"Config.name"} - tested


@pytest.mark.parametrize("stage", ["cpt", "sft"])
def test_every_field_of_a_stage_affects_its_runs(stage: str, raw: dict[str, Any], tmp_path: Path) -> None:
    def config(**section: Any) -> dict[str, Any]:
        run = {"stage": stage, "select": "last", stage: {"objective": "catalogue", **section}}
        return {
            **raw,
            "runs": {"cpt": {}, "one": run},
            "evaluate": {"names": {"one": {"run": "one"}}},
            "export": None,
            "pack": {},
        }

    pretend(graph_of(make_config(config()), tmp_path))
    assert set(states(graph_of(make_config(config()), tmp_path)).values()) == {"current"}
    others = {"objective": "language-model", "lm_weight": 0.5, "loss_temperature": (1.0, 2.0)}
    others |= {"targets": "last", "users": 0.5} if stage == "sft" else {}
    section = section_classes()["SftSpec" if stage == "sft" else "CptSpec"]
    assert set(others) == {field.name for field in dataclasses.fields(section)}
    for key, value in others.items():
        after = states(graph_of(make_config(config(**{key: value})), tmp_path))
        run = "runs/one" if stage == "cpt" else "runs/one@Games"
        assert after[run] == "out of date" and after["runs/cpt"] == "current" and after["results/one"] == "waits", key


def test_every_field_of_an_adapter_affects_its_runs_and_so_does_having_one(raw: dict[str, Any], tmp_path: Path) -> None:
    def config(lora: dict[str, Any] | None) -> Config:
        runs = {"cpt": {}, "one": {"lora": lora}}
        return make_config(
            {**raw, "runs": runs, "evaluate": {"names": {"one": {"run": "one"}}}, "export": None, "pack": {}}
        )

    others = {"rank": 4, "alpha": 2.0, "rslora": True, "dropout": 0.5, "targets": ("layers/mlp/*",)}
    assert set(others) == {field.name for field in dataclasses.fields(section_classes()["LoraSpec"])}
    pretend(graph_of(config({}), tmp_path))
    assert set(states(graph_of(config({}), tmp_path)).values()) == {"current"}
    for lora in (None, *({key: value} for key, value in others.items())):
        after = states(graph_of(config(lora), tmp_path))
        assert (
            after["runs/one"] == "out of date" and after["runs/cpt"] == "current" and after["results/one"] == "waits"
        ), lora


def test_what_needs_a_value_of_its_own(raw: dict[str, Any], tmp_path: Path) -> None:
    graph = graph_of(make_config(raw), tmp_path)
    pretend(graph)
    before = states(graph)
    sources = raw["corpus"]["sources"]
    renamed = {**raw, "corpus": {**raw["corpus"], "sources": [{**sources[0], "name": "Tools"}, sources[1]]}}
    assert states(graph_of(make_config(renamed), tmp_path))["corpus"] == "out of date"
    longer = {**raw, "train": {**raw["train"], "steps": None, "epochs": 2.0}}
    assert states(graph_of(make_config(longer), tmp_path))["runs/cpt"] == "out of date"
    kind = {
        **raw,
        "evaluate": {**raw["evaluate"], "names": {**raw["evaluate"]["names"], "popularity": {"kind": "markov"}}},
    }
    assert [n for n, w in states(graph_of(make_config(kind), tmp_path)).items() if w == "out of date"] == [
        "results/popularity"
    ]
    (tmp_path / "base").mkdir()
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        (tmp_path / "base" / name).write_text("{}")
    base = str(tmp_path / "base")
    assert states(graph_of(make_config({**raw, "text": {"tokenizer": base}}), tmp_path))["rows/cpt"] == "out of date"
    after = states(graph_of(make_config({**raw, "model": {"init_from": base}}), tmp_path))
    assert after["rows/cpt"] == "current" and after["runs/cpt"] == after["runs/cpt.seed-1"] == "out of date"
    assert make_config({"model": {"init_from": base}}).text.source == base, "the base model's own, where none is named"
    split = {**raw, "evaluate": {**raw["evaluate"], "split": "valid"}}
    after = states(graph_of(make_config(split), tmp_path))
    assert {after[name] for name in after if name not in before} == {"missing"} and after["runs/cpt"] == "current"


def test_files_count_by_content(raw: dict[str, Any], tmp_path: Path) -> None:
    pretend(graph_of(make_config(raw), tmp_path))
    path = Path(raw["evaluate"]["general_text"])
    text = path.read_text()
    path.write_text(text + "more")
    graph = graph_of(make_config(raw), tmp_path)
    stale = {artefact.name for artefact in graph.artefacts if graph.state(artefact).word == "out of date"}
    assert stale == {"rows/cpt", *MODELS}
    (rows,) = (artefact for artefact in graph.artefacts if artefact.name == "rows/cpt")
    assert graph.state(rows).reason == f"config.pack.text: file 1 changed: {path}"
    path.write_text(text)


def test_a_field_that_the_record_lacks_counts_as_equal_while_it_has_its_default(raw: dict[str, Any]) -> None:
    settings = settings_of(make_config(raw), {"runs"})
    recorded = dict(settings.values)
    del recorded["train.optimizer.b2"]
    assert settings.differences(recorded) == []
    given = settings_of(make_config({**raw, "train": {**raw["train"], "optimizer": {"b2": 0.5}}}), {"runs"})
    assert given.differences(recorded) == ["train.optimizer.b2"]
    assert settings.differences({**recorded, "train.optimizer.b2": 0.99}) == ["train.optimizer.b2"], (
        "a changed default is a change"
    )
    assert settings.differences({**recorded, "train.milestones": [0.5]}) == [], "what no longer affects it"


def test_a_section_by_name_that_is_left_out_is_a_change(raw: dict[str, Any], tmp_path: Path) -> None:
    pretend(graph_of(make_config(raw), tmp_path))
    without = {**raw, "corpus": {**raw["corpus"], "times": {}}}
    graph = graph_of(make_config(without), tmp_path)
    (corpus,) = graph.of_job("prepare")
    assert graph.state(corpus).changed == ('config.corpus.times was ["default"], is {}',)


def test_settings_survive_json(raw: dict[str, Any]) -> None:
    values = settings_of(make_config(raw), set(OF_KIND)).values
    assert json.loads(json.dumps(values)) == values
