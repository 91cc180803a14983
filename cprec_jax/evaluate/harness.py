"""Job `evaluate`: every method of the config on every set, by one protocol. Writes WORKDIR/results/NAME (or results-valid/NAME)."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cprec_jax import artefact
from cprec_jax.baselines.graph import Graph
from cprec_jax.baselines.popularity import Popularity
from cprec_jax.baselines.random import Random
from cprec_jax.baselines.registry import is_tuned, make_baseline
from cprec_jax.baselines.sequential import Sequential
from cprec_jax.baselines.text_knn import TextKNN
from cprec_jax.baselines.title_embeddings import from_states, from_tf_idf
from cprec_jax.corpus import Corpus
from cprec_jax.environment import environment
from cprec_jax.errors import UserError
from cprec_jax.evaluate.collect import FULL, Collected, collect, set_results, slice_table
from cprec_jax.evaluate.ensemble import Ensemble
from cprec_jax.evaluate.general_text import read_text
from cprec_jax.evaluate.language_model import TitleModel
from cprec_jax.evaluate.methods import Method, Oracle
from cprec_jax.evaluate.models import checkpoint_steps, load_model, run_directories
from cprec_jax.evaluate.score_file import ScoreFile
from cprec_jax.evaluate.sets import EvalSet, open_set
from cprec_jax.evaluate.spec import MODEL_KINDS, TITLES, VALIDATION, EvaluateSpec, MethodSpec, Rule, results_folder
from cprec_jax.evaluate.target_slices import target_slices
from cprec_jax.evaluate.title_states import title_states
from cprec_jax.hf.hub import locate
from cprec_jax.paths import local_path
from cprec_jax.progress import say
from cprec_jax.spec import build, nearest
from cprec_jax.train import run

PROTOCOL_VERSION = 1
SEQUENTIAL_KINDS = ("gru4rec", "sasrec")
TEXT_KINDS = ("text_knn", "graph")
NO_RESULT = ("names", "node_chunk", "batch_users", "batch_tokens", "devices")  # keys of the spec that change no result
LATER_KEYS = (
    ("fit", "train"),
    ("seeds", 1),
    ("pmi", 0.0),
    ("ranks_to", None),
    ("beam", None),
    ("members", ()),
    ("init", None),
    ("leak_probe", None),
)  # keys, at their defaults, that came later: results made before them stay current
ONLY_MODELS = (  # keys that no other kind looks at
    *("rule", "temperature", "pmi", "pmi_weights", "ranks_to", "beam"),
    *("prompt_tokens", "leak_probe"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """What several rows of one job share, so that it is made once: sequential methods by name and seed, and similarities of titles."""

    trained: dict[tuple[str, int], Sequential]
    text_knn: TextKNN


def evaluate_spec(config: Mapping[str, Any]) -> EvaluateSpec:
    return build(EvaluateSpec, config.get("evaluate", {}), "config.evaluate")


def result_names(config: Mapping[str, Any]) -> list[str]:
    """The names of all results of the config, in its order."""
    return list(evaluate_spec(config).names)


def result_directory(config: Mapping[str, Any], workdir: Path, name: str) -> Path:
    """Where the result of a name is, for the split of the config."""
    return results_folder(workdir, evaluate_spec(config).split) / name


def evaluate_inputs(config: Mapping[str, Any], workdir: Path, name: str) -> dict[str, Any]:
    """What one result is made from: the evaluate section without what the method does not look at, the corpus, the model's parameters,
    and the content of the general text."""
    spec = evaluate_spec(config)
    corpus = artefact.read_json(workdir / "corpus" / artefact.MANIFEST, "prepare")["corpus_hash"]
    method = dataclasses.asdict(spec.names[name])
    inputs: dict[str, Any] = {"job": "evaluate", "method": method, "settings": dataclasses.asdict(spec), "corpus": corpus}
    inputs |= _files_of(spec.names[name], config, workdir)
    if spec.names[name].members:
        inputs["members"] = {member: evaluate_inputs(config, workdir, member) for member in spec.names[name].members}
    if (row := spec.names[name].init) not in (None, TITLES):
        assert row is not None
        inputs["init"] = {"method": _without_later(dataclasses.asdict(spec.names[row])), **_files_of(spec.names[row], config, workdir)}
    if spec.names[name].kind in MODEL_KINDS:
        if spec.general_text is not None:
            inputs["general_text"] = artefact.file_sha256(local_path(spec.general_text, "config.evaluate.general_text"))
        chooser = spec.rule_chooser()
        if spec.rule == VALIDATION and chooser is not None and chooser != name:
            other = spec.names[chooser]
            inputs["rule_chosen_on"] = {"method": _without_later(dataclasses.asdict(other)), **_files_of(other, config, workdir)}
    return _that_matter(inputs)


def _files_of(method: MethodSpec, config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """The model of a method, or its file of scores, by content."""
    if method.kind in ("untrained", "checkpoint"):
        runs = run_directories(_trained_in(method, workdir), run.seeds(config))
        params = [artefact.read_json(directory / artefact.MANIFEST, "train")["params_sha256"] for directory in runs]
        return {"model": params[0] if len(params) == 1 else params}
    if method.path is None:
        return {"model": None}
    model = _files(locate(method.path) if method.kind == "hf" else local_path(method.path, "config.evaluate.names: path"))
    return {"model": model, "template": dict(config.get("text", {})).get("template") if method.kind == "hf" else None}


def _trained_in(method: MethodSpec, workdir: Path) -> Path:
    """The work directory whose run a method of kind `untrained` or `checkpoint` is. `path` may also be that run's own directory."""
    if method.path is None:
        return workdir
    path = local_path(method.path, "config.evaluate.names: path")
    inside = path.parts[-2:] == ("runs", run.STAGE) and not run.run_directory(path).is_dir()  # a work directory may have that name
    return path.parents[1] if inside else path


def _that_matter(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs, also those that an earlier version recorded with a result, without what cannot have changed that result."""
    method, settings = _without_later(inputs["method"]), _without_later(inputs["settings"])
    kind = method["kind"]
    unused = {*NO_RESULT, "general_text"}  # the text counts by its content, not its path
    if kind not in MODEL_KINDS:
        unused |= {*ONLY_MODELS, *(() if kind in SEQUENTIAL_KINDS else ("temperatures",))}
    elif settings.get("pmi") != VALIDATION:
        unused.add("pmi_weights")
    if kind not in SEQUENTIAL_KINDS:
        unused.add("sequential")
    if kind not in TEXT_KINDS:
        unused.add("text_knn")
    if kind != "ensemble":
        unused.add("ensemble")
    settings = {key: value for key, value in settings.items() if key not in unused}
    rest = {key: value for key, value in inputs.items() if (key, value) != ("general_text", None)}
    return {**rest, "method": method, "settings": settings}


def _without_later(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if (key, value) not in LATER_KEYS}


def is_current(directory: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the result in `directory` was made from `inputs`, as far as they matter to its method; whatever version made it."""
    if artefact.is_current(directory, inputs):
        return True
    try:
        made_from = json.loads((directory / artefact.MANIFEST).read_text(encoding="utf-8"))["inputs"]
        return artefact.fingerprint(_that_matter(made_from)) == artefact.fingerprint(inputs)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # absent, damaged, or no manifest of ours
        return False


def _files(path: Path) -> dict[str, str]:
    """SHA-256 of a file, or of the weights, tokenizer and configuration in a Hugging Face directory."""
    files = [p for p in sorted(path.iterdir()) if p.suffix in (".safetensors", ".json", ".model", ".txt")] if path.is_dir() else [path]
    return {p.name: artefact.file_sha256(p) for p in files}


def evaluate(config: Mapping[str, Any], workdir: Path, names: Sequence[str] | None = None) -> None:
    """Evaluate `names` (None: all of `config.evaluate.names`)."""
    spec = evaluate_spec(config)
    for name in names or []:
        if name not in spec.names:
            raise UserError(f"--only={name}: no such result in config.evaluate.names{nearest(name, spec.names)}")
    if spec.general_text is not None and any(spec.names[name].kind in MODEL_KINDS for name in names or spec.names):
        read_text(local_path(spec.general_text, "config.evaluate.general_text"))  # a mistake shows before hours of ranking
    corpus = Corpus.open(workdir / "corpus")
    for name in spec.sets or ():
        corpus.set_info(name)
    data = [_open(corpus, spec, name, spec.split, spec.max_users) for name in spec.sets or corpus.sets]
    for one in data:
        if not len(one):
            say(f"evaluate: {one.name} has no {spec.split} users; it is left out")
    data = [_with_slices(corpus, one) for one in data if len(one)]
    if not data:
        raise UserError(f"{corpus.path}: no set has {spec.split} users; look at t1 and t2 in its manifest.json")
    validation = {}
    tuned = any(is_tuned(spec.names[row]) for name in names or spec.names for row in spec.rows_of(name))
    if tuned or spec.validates():
        validation = {one.name: _open(corpus, spec, one.name, "valid", spec.validation_users) for one in data}
    wanted = list(names or spec.names)
    chooser = spec.rule_chooser()
    if spec.rule == VALIDATION and chooser is not None and any(map(spec.uses_model, wanted)):
        wanted.sort(key=lambda name: name != chooser)
        if wanted[0] != chooser:  # its result is up to date, or not asked for
            spec = dataclasses.replace(spec, rule=_rule_chosen_on(chooser, spec, config, workdir, corpus, validation))
    kept = Kept(trained={}, text_knn=TextKNN(spec.text_knn, corpus))
    for name in sorted(wanted, key=lambda name: spec.names[name].kind == "ensemble"):  # after its members
        rule = _evaluate_one(name, spec, config, workdir, corpus, data, validation, kept)
        if rule is not None:
            spec = dataclasses.replace(spec, rule=rule)


def _rule_chosen_on(
    name: str, spec: EvaluateSpec, config: Mapping[str, Any], workdir: Path, corpus: Corpus, validation: dict[str, EvalSet]
) -> Rule:
    """The rule that its result records where that is up to date; else it is chosen now, and no result of that name is made."""
    directory = result_directory(config, workdir, name)
    if is_current(directory, evaluate_inputs(config, workdir, name)):
        recorded = artefact.read_json(directory / "results.json", "evaluate").get("scoring_rule")
        if isinstance(recorded, str):
            return cast(Rule, recorded)
    method, _ = next(_methods(spec, name, config, workdir, corpus, validation, Kept(trained={}, text_knn=TextKNN(spec.text_knn, corpus))))
    assert isinstance(method, TitleModel)
    return method.choose_rule()


def _with_slices(corpus: Corpus, data: EvalSet) -> EvalSet:
    found = target_slices(corpus, data)
    return dataclasses.replace(data, more_slices=found.masks, overlap_terciles=found.overlap_terciles)


def _open(corpus: Corpus, spec: EvaluateSpec, name: str, split: Any, users: int | None) -> EvalSet:
    protocols = spec.protocols if split == spec.split else ("full",)
    mask, always = spec.mask_history != "never", spec.mask_history == "always"
    return open_set(corpus, name, split, protocols, mask, users, spec.seed, mask_repeats=always)


def _evaluate_one(
    name: str,
    spec: EvaluateSpec,
    config: Mapping[str, Any],
    workdir: Path,
    corpus: Corpus,
    data: Sequence[EvalSet],
    validation: dict[str, EvalSet],
    kept: Kept,
) -> Rule | None:
    """Write one result. Returns the scoring rule of a language model."""
    started = time.monotonic()
    kind = spec.names[name].kind
    methods = _methods(spec, name, config, workdir, corpus, validation, kept)
    found: dict[str, list[Collected]] = {one.name: [] for one in data}
    facts: dict[str, dict[str, Any]] = {}
    cost = dict.fromkeys(found, 0.0)
    steps = []
    rules: list[str] = []
    rule: Rule | None = None
    general: list[dict[str, Any]] = []
    for method, step in methods:
        steps.append(step)
        if isinstance(method, TitleModel) and rule is not None:
            method.rule = rule  # the one that the first seed chose
        for one in data:
            begun = time.monotonic()
            found[one.name].append(collect(method, one, name))
            cost[one.name] += time.monotonic() - begun
            facts.setdefault(one.name, method.facts())
            if spec.leak_probe is not None and isinstance(method, TitleModel) and "leak_probe" not in facts[one.name]:
                facts[one.name] = facts[one.name] | {"leak_probe": method.leak_probe(one, spec.leak_probe)}  # of the first seed
        if spec.general_text is not None and isinstance(method, TitleModel):
            general.append(method.general_text(local_path(spec.general_text, "config.evaluate.general_text")))
            say(f"evaluate: {name}: perplexity {general[-1]['perplexity']:.2f} on {general[-1]['file']}")
        rule = method.rule if isinstance(method, TitleModel) else None
        rules.append(rule or kind)
    results: dict[str, Any] = {}
    rows: list[pa.Table] = []
    seeds = list(range(len(steps))) if len(steps) > 1 else [spec.seed]
    for one in data:
        results[one.name] = set_results(one, found[one.name], facts[one.name], spec)
        rows += [collected.table(one, seed) for seed, collected in zip(seeds, found[one.name], strict=True)]
        _say_result(name, one, results[one.name]["protocols"], cost[one.name])
    users = len(steps) * sum(len(one) for one in data)  # once a seed, as the seconds
    record: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "step": steps[0],
        "protocol_version": PROTOCOL_VERSION,
        "corpus_hash": corpus.hash,
        "scoring_rule": rules[0] if len(set(rules)) == 1 else rules,
        "split": spec.split,
        "seeds": seeds,
        **({"members": {row: spec.names[row].kind for row in members}} if (members := spec.names[name].members) else {}),
        "sets": results,
        "environment": environment(),
        "cost": {
            "seconds": time.monotonic() - started,
            "users_per_second": users / max(sum(cost.values()), 1e-9),
            "seconds_by_set": cost,
        },
    }
    if kind in MODEL_KINDS and evaluate_spec(config).rule == VALIDATION:
        record["rule_chosen_on"] = spec.rule_chooser()
    if general:
        record["general_text"] = general[0] if len(general) == 1 else general
    inputs = evaluate_inputs(config, workdir, name)
    with artefact.new_directory(result_directory(config, workdir, name)) as directory:
        artefact.write_json(directory / "results.json", record)
        pq.write_table(pa.concat_tables(rows), directory / "ranks.parquet")
        pq.write_table(pa.concat_tables(map(slice_table, data)), directory / "slices.parquet")
        artefact.write_json(directory / "examples.json", {"users": [user for one in data for user in _examples(found[one.name][0])]})
        artefact.write_json(directory / artefact.MANIFEST, {"version": 1, "inputs_hash": artefact.fingerprint(inputs), "inputs": inputs})
    return rule


def _examples(collected: Collected) -> list[dict[str, Any]]:
    return [] if collected.flat else collected.examples  # which ten of equals come first would be an accident


def _methods(
    spec: EvaluateSpec,
    name: str,
    config: Mapping[str, Any],
    workdir: Path,
    corpus: Corpus,
    validation: dict[str, EvalSet],
    kept: Kept,
) -> Iterator[tuple[Method, int | None]]:
    """What stands behind a name, once a seed, with the training step it is of (None: none)."""
    chosen = spec.names[name]
    if chosen.kind in ("untrained", "checkpoint"):
        workdir = _trained_in(chosen, workdir)
        for directory in run_directories(workdir, run.seeds(config)):
            if chosen.step == VALIDATION:
                yield _best_checkpoint(spec, chosen, config, workdir, corpus, directory, validation)
                continue
            model = load_model(chosen, config, workdir, corpus, directory)
            yield TitleModel(model, spec, validation), model.step
    elif chosen.kind == "hf":
        model = load_model(chosen, config, workdir, corpus)
        yield TitleModel(model, spec, validation), model.step
    elif chosen.kind == "gru4rec" or chosen.kind == "sasrec":
        titles = _title_features(chosen, spec, config, workdir, corpus)
        settings: dict[str, Any] = {}  # the first seed chooses, the others train what it chose
        for seed in range(spec.seeds):
            made = kept.trained.get((name, seed)) or Sequential(
                chosen.kind, spec.sequential, corpus, spec.temperatures, seed, settings, titles
            )
            yield kept.trained.setdefault((name, seed), made), None
    elif chosen.kind == "ensemble":
        of_seeds = [[method for method, _ in _methods(spec, row, config, workdir, corpus, validation, kept)] for row in chosen.members]
        for seed in range(most := max(map(len, of_seeds))):
            if any(len(methods) not in (1, most) for methods in of_seeds):
                raise UserError(f"config.evaluate.names.{name}: its members have {[len(m) for m in of_seeds]} seeds; give all the same")
            members = {row: methods[seed % len(methods)] for row, methods in zip(chosen.members, of_seeds, strict=True)}
            yield Ensemble(members, spec.ensemble, corpus), None
    else:
        yield _simple(spec, name, corpus, validation, kept.text_knn), None


def _title_features(
    chosen: MethodSpec, spec: EvaluateSpec, config: Mapping[str, Any], workdir: Path, corpus: Corpus
) -> Callable[[EvalSet], np.ndarray] | None:
    """Where the item embeddings of a sequential method start: a function of the set, or None."""
    width = spec.sequential.hidden
    if chosen.init is None:
        return None
    if chosen.init == TITLES:
        return lambda data: from_tf_idf(data.titles, width)
    row = spec.names[chosen.init]
    home = _trained_in(row, workdir)
    directory = None if row.kind == "hf" else run_directories(home, 1)[0]  # of several seeds the first
    model = load_model(row, config, home, corpus, directory)
    return lambda data: from_states(title_states(model, data.items), width)


def _best_checkpoint(
    spec: EvaluateSpec,
    chosen: MethodSpec,
    config: Mapping[str, Any],
    workdir: Path,
    corpus: Corpus,
    directory: Path,
    validation: dict[str, EvalSet],
) -> tuple[Method, int | None]:
    """The checkpoint with the lowest NLL of the validation targets (each at its own best temperature); step 0 is none of them."""
    nll: dict[int, float] = {}
    for step in checkpoint_steps(directory):
        model = load_model(dataclasses.replace(chosen, step=step), config, workdir, corpus, directory)
        nll[step] = TitleModel(model, spec, validation).validation_nll()
        say(f"evaluate: step {step}: NLL {nll[step]:.3f} on validation")
    best = min(nll, key=nll.__getitem__)
    model = load_model(dataclasses.replace(chosen, step=best), config, workdir, corpus, directory)
    return TitleModel(model, spec, validation, {"validation_nll_by_step": {str(s): v for s, v in nll.items()}}), best


def _simple(spec: EvaluateSpec, name: str, corpus: Corpus, validation: dict[str, EvalSet], text: TextKNN) -> Method:
    """A method without training."""
    chosen = spec.names[name]
    if is_tuned(chosen):
        return make_baseline(chosen, corpus, validation)
    if chosen.kind == "text_knn":
        return text
    if chosen.kind == "graph":
        return Graph(text, corpus, chosen.fit)
    if chosen.kind == "scores":
        return ScoreFile(local_path(str(chosen.path), "config.evaluate.names: path"), corpus)
    simple: dict[str, type[Method]] = {"random": Random, "popularity": Popularity, "oracle": Oracle}
    return simple[chosen.kind]()


def _say_result(name: str, data: EvalSet, protocols: Mapping[str, Any], seconds: float) -> None:
    protocol = FULL if FULL in protocols else next(iter(protocols))
    nll = f", NLL {protocols[protocol]['nll']:.3f}" if "nll" in protocols[protocol] else ""
    say(f"evaluate: {name} on {data.name}: {protocol} HR@10 {protocols[protocol]['hr@10']:.4f}{nll}, {len(data)} users in {seconds:.1f} s")
