"""Job `evaluate`: every method of the config on every set, by one protocol. Writes WORKDIR/results/NAME (or results-valid/NAME)."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
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
from cprec_jax.evaluate.kept import Cell, Store
from cprec_jax.evaluate.language_model import TitleModel
from cprec_jax.evaluate.methods import Method, Oracle
from cprec_jax.evaluate.models import LoadedModel, load_model
from cprec_jax.evaluate.runs_of_rows import PATH, name_of_run, parts_of, runs_of, seeds_of, sets_of_row, work_directory_of
from cprec_jax.evaluate.score_file import ScoreFile
from cprec_jax.evaluate.select import of_checkpoints
from cprec_jax.evaluate.sets import EvalSet, open_set
from cprec_jax.evaluate.target_slices import target_slices
from cprec_jax.evaluate.title_states import title_states
from cprec_jax.paths import local_path
from cprec_jax.progress import say
from cprec_jax.workdir import corpus_directory, result_directory

PROTOCOL_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """What several rows of one job share, so that it is made once.

    trained: sequential methods by name and seed. titles: where their embeddings start, by name. text_knn: similarities of titles.
    members: methods of one seed that serve all seeds of an ensemble. store: what earlier evaluations kept.
    """

    text_knn: TextKNN
    store: Store
    trained: dict[tuple[str, int], Sequential] = dataclasses.field(default_factory=dict)
    titles: dict[str, Callable[[EvalSet], np.ndarray] | None] = dataclasses.field(default_factory=dict)
    members: dict[str, Method] = dataclasses.field(default_factory=dict)


def evaluate(config: Config, workdir: Path, records: Mapping[str, Mapping[str, Any]], store: Store, chosen_rule: str | None = None) -> None:
    """Write the results of the rows that `records` names, each with what it is made from. Only what `store` does not hold is ranked.

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
    kept = Kept(text_knn=TextKNN(spec.text_knn, corpus), store=store)
    chooser = spec.rule_chooser()
    if spec.rule == VALIDATION and chooser is not None and any(map(spec.uses_model, wanted)):
        wanted.sort(key=lambda name: name != chooser)
        if wanted[0] != chooser:  # its result is up to date, or not asked for
            spec = dataclasses.replace(spec, rule=_chosen(chosen_rule, chooser, spec, config, workdir, corpus, validation, kept))
    for name in sorted(wanted, key=lambda name: spec.names[name].kind == "ensemble"):  # after its members
        rule = _evaluate_one(name, spec, config, workdir, corpus, data, validation, kept, records[name])
        kept.members.clear()
        if rule is not None:
            spec = dataclasses.replace(spec, rule=rule)


def _chosen(
    recorded: str | None,
    name: str,
    spec: EvaluateSpec,
    config: Config,
    workdir: Path,
    corpus: Corpus,
    validation: dict[str, EvalSet],
    kept: Kept,
) -> Rule:
    """The rule that was recorded; else it is chosen now on the row `name`, and no result of that name is made."""
    if recorded is not None:
        return cast(Rule, recorded)
    own = sets_of_row(config, name)
    method, _ = _method(spec, name, 0, config, workdir, corpus, validation, kept, own[0] if own else None)
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
    if (own := sets_of_row(config, name)) is not None:
        data = [one for one in data if one.name in own]
        if not data:
            raise UserError(
                f"{PATH}.{name}: its run is one per set ({', '.join(own)}), and none of these is evaluated; see config.evaluate.sets"
            )
    before: list[Cell] = []
    cells: list[dict[str, Cell]] = []  # by seed and set
    rule: Rule | None = None
    for seed in range(seeds_of(config, name)):
        found = {one.name: kept.store.read_cell(name, one.name, seed) for one in data}
        before += [cell for cell in found.values() if cell is not None]
        missing = [one for one in data if found[one.name] is None]
        ranked = _rank(name, seed, missing, rule, spec, config, workdir, corpus, validation, kept) if missing else {}
        cells.append({one.name: found[one.name] or ranked[one.name] for one in data})
        rule = cast(Rule | None, cells[-1][data[0].name].rule)
    if before:
        say(f"evaluate: {name}: {len(before)} of {len(cells) * len(data)} sets and seeds were ranked before")
    results: dict[str, Any] = {}
    rows: list[pa.Table] = []
    seeds = list(range(len(cells))) if len(cells) > 1 else [spec.seed]
    cost = {one.name: sum(of_seed[one.name].seconds for of_seed in cells) for one in data}
    for one in data:
        collected = [of_seed[one.name].collected for of_seed in cells]
        results[one.name] = set_results(one, collected, cells[0][one.name].facts, spec)
        rows += [each.table(one, seed) for seed, each in zip(seeds, collected, strict=True)]
        _say_result(name, one, results[one.name]["protocols"], cost[one.name])
    users = len(cells) * sum(len(one) for one in data)  # once a seed, as the seconds
    first = [of_seed[data[0].name] for of_seed in cells]
    steps = {one.name: cells[0][one.name].step for one in data}
    rules = [cell.rule or kind for cell in first]
    general = [cell.general_text for cell in first if cell.general_text is not None]
    record: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "step": first[0].step if len(set(steps.values())) == 1 else None,
        **({"step_by_set": steps} if len(set(steps.values())) > 1 else {}),
        **({"run": name_of_run(spec.names[name], config)} if kind in ("untrained", "checkpoint") else {}),
        "protocol_version": PROTOCOL_VERSION,
        "corpus_hash": corpus.hash,
        "scoring_rule": rules[0] if len(set(rules)) == 1 else rules,
        "split": spec.split,
        "seeds": seeds,
        **({"members": {row: spec.names[row].kind for row in members}} if (members := spec.names[name].members) else {}),
        "sets": results,
        "environment": first[0].environment,
        "cost": {
            "seconds": time.monotonic() - started + sum(cell.seconds for cell in before),
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
        artefact.write_json(
            directory / "examples.json", {"users": [user for one in data for user in _examples(cells[0][one.name].collected)]}
        )
        # How long it took, and where, is no part of what was found.
        found_hash = artefact.fingerprint({key: value for key, value in record.items() if key not in ("environment", "cost")})
        content = [found_hash, *(artefact.file_sha256(directory / name) for name in ("ranks.parquet", "slices.parquet"))]
        artefact.write_manifest(directory, made_from, {"results_hash": artefact.fingerprint(content)})
    return rule


def _rank(
    name: str,
    seed: int,
    missing: Sequence[EvalSet],
    rule: Rule | None,
    spec: EvaluateSpec,
    config: Config,
    workdir: Path,
    corpus: Corpus,
    validation: dict[str, EvalSet],
    kept: Kept,
) -> dict[str, Cell]:
    """Rank the sets that are `missing` of one seed of a row. rule: the one that the first seed of a language model chose."""
    kept.store.before_ranking(name)
    if sets_of_row(config, name) is None:
        return _rank_by(None, name, seed, missing, rule, spec, config, workdir, corpus, validation, kept)
    ranked: dict[str, Cell] = {}
    for one in missing:  # each by a run of its own
        ranked |= _rank_by(one.name, name, seed, [one], rule, spec, config, workdir, corpus, validation, kept)
    return ranked


def _rank_by(
    part: str | None,
    name: str,
    seed: int,
    missing: Sequence[EvalSet],
    rule: Rule | None,
    spec: EvaluateSpec,
    config: Config,
    workdir: Path,
    corpus: Corpus,
    validation: dict[str, EvalSet],
    kept: Kept,
) -> dict[str, Cell]:
    """Rank sets by one method. part: the set whose run is asked, where there is one per set."""
    method, step = _method(spec, name, seed, config, workdir, corpus, validation, kept, part)
    if isinstance(method, TitleModel) and rule is not None:
        method.rule = rule
    general = None
    if spec.general_text is not None and isinstance(method, TitleModel):
        general = method.general_text(local_path(spec.general_text, "config.evaluate.general_text"))
        say(f"evaluate: {name}: perplexity {general['perplexity']:.2f} on {general['file']}")
    ranked = {}
    for one in missing:
        begun = time.monotonic()
        collected = collect(method, one, name)
        seconds = time.monotonic() - begun
        facts = method.facts()
        if spec.leak_probe is not None and isinstance(method, TitleModel) and seed == 0:
            facts = facts | {"leak_probe": method.leak_probe(one, spec.leak_probe)}
        cell = Cell(
            collected=collected,
            facts=facts,
            rule=method.rule if isinstance(method, TitleModel) else None,
            step=step,
            general_text=general,
            seconds=seconds,
            environment=environment(),
        )
        ranked[one.name] = kept.store.write_cell(name, one.name, seed, cell)
    return ranked


def _examples(collected: Collected) -> list[dict[str, Any]]:
    return [] if collected.flat else collected.examples  # which ten of equals come first would be an accident


def _method(
    spec: EvaluateSpec,
    name: str,
    seed: int,
    config: Config,
    workdir: Path,
    corpus: Corpus,
    validation: dict[str, EvalSet],
    kept: Kept,
    part: str | None = None,
) -> tuple[Method, int | None]:
    """What stands behind a name and seed (and set, where there is a run per set), with the training step it is of (None: none)."""
    chosen = spec.names[name]
    if chosen.kind in ("untrained", "checkpoint"):
        home = work_directory_of(chosen, workdir)
        directory = runs_of(chosen, config, workdir, part if parts_of(chosen, config) is not None else None)[seed]
        if part is not None:
            validation = {one: users for one, users in validation.items() if one == part}
        if chosen.step == VALIDATION:
            return _best_checkpoint(spec, chosen, config.text.template, home, corpus, directory, validation)
        model = load_model(chosen, config.text.template, home, corpus, directory)
        return TitleModel(model, spec, validation), model.step
    if chosen.kind == "hf":
        model = load_model(chosen, config.text.template, workdir, corpus)
        return TitleModel(model, spec, validation), model.step
    if chosen.kind == "gru4rec" or chosen.kind == "sasrec":
        if name not in kept.titles:
            kept.titles[name] = _title_features(chosen, spec, config, workdir, corpus)
        for one in (0, seed):
            if (name, one) not in kept.trained:
                first, shelf = kept.trained.get((name, 0)), kept.store.shelf(name, one)
                kept.trained[name, one] = Sequential(
                    chosen.kind, spec.sequential, corpus, spec.temperatures, one, first, kept.titles[name], shelf
                )
        return kept.trained[name, seed], None
    if chosen.kind == "ensemble":
        seeds = {row: seeds_of(config, row) for row in chosen.members}
        if any(n not in (1, max(seeds.values())) for n in seeds.values()):
            raise UserError(f"config.evaluate.names.{name}: its members have {list(seeds.values())} seeds; give all the same")
        members = {}
        for row, n in seeds.items():
            members[row] = kept.members.get(row) or _method(spec, row, seed % n, config, workdir, corpus, validation, kept, part)[0]
            if n == 1 and part is None:
                kept.members[row] = members[row]
        return Ensemble(members, spec.ensemble, corpus), None
    return _simple(spec, name, corpus, validation, kept.text_knn), None


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
    parts = None if row.kind == "hf" else parts_of(row, config)

    @functools.cache
    def model(part: str | None) -> LoadedModel:  # not before something is trained
        directory = None if row.kind == "hf" else runs_of(row, config, workdir, part)[0]  # of several seeds the first
        return load_model(row, config.text.template, home, corpus, directory)

    return lambda data: from_states(title_states(model(None if parts is None else data.name), data.items), width)


def _best_checkpoint(
    spec: EvaluateSpec,
    chosen: MethodSpec,
    template: TemplateSpec,
    workdir: Path,
    corpus: Corpus,
    directory: Path,
    validation: dict[str, EvalSet],
) -> tuple[Method, int | None]:
    """The checkpoint with the lowest NLL of the validation targets."""
    nll = of_checkpoints(spec, "nll", chosen, template, workdir, corpus, directory, validation)
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
