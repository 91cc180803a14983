"""Job `evaluate`: every method of the config on every set, by one protocol. Writes WORKDIR/results/NAME (or results-valid/NAME)."""

import dataclasses
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
from cprec_jax.config.evaluate import MODEL_KINDS, TITLES, VALIDATION, EvaluateSpec, MethodSpec, Rule
from cprec_jax.config.root import Config
from cprec_jax.config.text import TemplateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.environment import environment
from cprec_jax.errors import UserError
from cprec_jax.evaluate.collect import FULL, Collected, collect, set_results, slice_table
from cprec_jax.evaluate.ensemble import Ensemble
from cprec_jax.evaluate.general_text import read_text
from cprec_jax.evaluate.language_model import TitleModel
from cprec_jax.evaluate.methods import Method, Oracle
from cprec_jax.evaluate.models import checkpoint_steps, load_model
from cprec_jax.evaluate.runs_of_rows import runs_of, work_directory_of
from cprec_jax.evaluate.score_file import ScoreFile
from cprec_jax.evaluate.sets import EvalSet, open_set
from cprec_jax.evaluate.target_slices import target_slices
from cprec_jax.evaluate.title_states import title_states
from cprec_jax.paths import local_path
from cprec_jax.progress import say
from cprec_jax.workdir import corpus_directory, result_directory

PROTOCOL_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """What several rows of one job share, so that it is made once: sequential methods by name and seed, and similarities of titles."""

    trained: dict[tuple[str, int], Sequential]
    text_knn: TextKNN


def evaluate(config: Config, workdir: Path, records: Mapping[str, Mapping[str, Any]], chosen_rule: str | None = None) -> None:
    """Write the results of the rows that `records` names, each with what it is made from.

    chosen_rule: the scoring rule that an earlier result chose; None: it is chosen now, where validation chooses.
    """
    spec = config.evaluate
    if spec.general_text is not None and any(spec.names[name].kind in MODEL_KINDS for name in records):
        read_text(local_path(spec.general_text, "config.evaluate.general_text"))  # a mistake shows before hours of ranking
    corpus = Corpus.open(corpus_directory(workdir))
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
    tuned = any(is_tuned(spec.names[row]) for name in records for row in spec.rows_of(name))
    if tuned or spec.validates():
        validation = {one.name: _open(corpus, spec, one.name, "valid", spec.validation_users) for one in data}
    wanted = list(records)
    chooser = spec.rule_chooser()
    if spec.rule == VALIDATION and chooser is not None and any(map(spec.uses_model, wanted)):
        wanted.sort(key=lambda name: name != chooser)
        if wanted[0] != chooser:  # its result is up to date, or not asked for
            spec = dataclasses.replace(spec, rule=_chosen(chosen_rule, chooser, spec, config, workdir, corpus, validation))
    kept = Kept(trained={}, text_knn=TextKNN(spec.text_knn, corpus))
    for name in sorted(wanted, key=lambda name: spec.names[name].kind == "ensemble"):  # after its members
        rule = _evaluate_one(name, spec, config, workdir, corpus, data, validation, kept, records[name])
        if rule is not None:
            spec = dataclasses.replace(spec, rule=rule)


def _chosen(
    recorded: str | None, name: str, spec: EvaluateSpec, config: Config, workdir: Path, corpus: Corpus, validation: dict[str, EvalSet]
) -> Rule:
    """The rule that was recorded; else it is chosen now on the row `name`, and no result of that name is made."""
    if recorded is not None:
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
    config: Config,
    workdir: Path,
    corpus: Corpus,
    data: Sequence[EvalSet],
    validation: dict[str, EvalSet],
    kept: Kept,
    made_from: Mapping[str, Any],
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
    if kind in MODEL_KINDS and config.evaluate.rule == VALIDATION:
        record["rule_chosen_on"] = spec.rule_chooser()
    if general:
        record["general_text"] = general[0] if len(general) == 1 else general
    with artefact.new_directory(result_directory(workdir, spec.split, name)) as directory:
        artefact.write_json(directory / "results.json", record)
        pq.write_table(pa.concat_tables(rows), directory / "ranks.parquet")
        pq.write_table(pa.concat_tables(map(slice_table, data)), directory / "slices.parquet")
        artefact.write_json(directory / "examples.json", {"users": [user for one in data for user in _examples(found[one.name][0])]})
        # How long it took, and where, is no part of what was found.
        found_hash = artefact.fingerprint({key: value for key, value in record.items() if key not in ("environment", "cost")})
        content = [found_hash, *(artefact.file_sha256(directory / name) for name in ("ranks.parquet", "slices.parquet"))]
        artefact.write_manifest(directory, made_from, {"results_hash": artefact.fingerprint(content)})
    return rule


def _examples(collected: Collected) -> list[dict[str, Any]]:
    return [] if collected.flat else collected.examples  # which ten of equals come first would be an accident


def _methods(
    spec: EvaluateSpec,
    name: str,
    config: Config,
    workdir: Path,
    corpus: Corpus,
    validation: dict[str, EvalSet],
    kept: Kept,
) -> Iterator[tuple[Method, int | None]]:
    """What stands behind a name, once a seed, with the training step it is of (None: none)."""
    chosen = spec.names[name]
    if chosen.kind in ("untrained", "checkpoint"):
        home = work_directory_of(chosen, workdir)
        for directory in runs_of(chosen, workdir, config.seeds):
            if chosen.step == VALIDATION:
                yield _best_checkpoint(spec, chosen, config.text.template, home, corpus, directory, validation)
                continue
            model = load_model(chosen, config.text.template, home, corpus, directory)
            yield TitleModel(model, spec, validation), model.step
    elif chosen.kind == "hf":
        model = load_model(chosen, config.text.template, workdir, corpus)
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
    chosen: MethodSpec, spec: EvaluateSpec, config: Config, workdir: Path, corpus: Corpus
) -> Callable[[EvalSet], np.ndarray] | None:
    """Where the item embeddings of a sequential method start: a function of the set, or None."""
    width = spec.sequential.hidden
    if chosen.init is None:
        return None
    if chosen.init == TITLES:
        return lambda data: from_tf_idf(data.titles, width)
    row = spec.names[chosen.init]
    home = work_directory_of(row, workdir)
    directory = None if row.kind == "hf" else runs_of(row, workdir, 1)[0]  # of several seeds the first
    model = load_model(row, config.text.template, home, corpus, directory)
    return lambda data: from_states(title_states(model, data.items), width)


def _best_checkpoint(
    spec: EvaluateSpec,
    chosen: MethodSpec,
    template: TemplateSpec,
    workdir: Path,
    corpus: Corpus,
    directory: Path,
    validation: dict[str, EvalSet],
) -> tuple[Method, int | None]:
    """The checkpoint with the lowest NLL of the validation targets (each at its own best temperature); step 0 is none of them."""
    nll: dict[int, float] = {}
    for step in checkpoint_steps(directory):
        model = load_model(dataclasses.replace(chosen, step=step), template, workdir, corpus, directory)
        nll[step] = TitleModel(model, spec, validation).validation_nll()
        say(f"evaluate: step {step}: NLL {nll[step]:.3f} on validation")
    best = min(nll, key=nll.__getitem__)
    model = load_model(dataclasses.replace(chosen, step=best), template, workdir, corpus, directory)
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
