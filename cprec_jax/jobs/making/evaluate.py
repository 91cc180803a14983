"""Job `evaluate`: every row of the config on every set, by one protocol. Writes WORKDIR/results/NAME (or
results-valid/NAME)."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cprec_jax.config.evaluate import MODEL_KINDS, RUN_KINDS, VALIDATION, EvaluateSpec, Rule
from cprec_jax.config.root import Config
from cprec_jax.corpus import Corpus
from cprec_jax.environment import environment
from cprec_jax.errors import UserError
from cprec_jax.evaluate.collect import collect, set_results
from cprec_jax.evaluate.eval_set import EvalSet, open_ranked, open_validation
from cprec_jax.evaluate.kept import Cell, Store
from cprec_jax.evaluate.pieces import FULL
from cprec_jax.evaluate.results import write_result
from cprec_jax.evaluate.target_slices import target_slices
from cprec_jax.jobs.making.shared_ranking import Opening, collect_by_all
from cprec_jax.methods.forgetting import read_text
from cprec_jax.methods.registry import Registry, is_tuned
from cprec_jax.methods.runs_of_rows import PATH, name_of_run, seeds_of, sets_of_row
from cprec_jax.methods.title_model import TitleModel
from cprec_jax.parallel.processes import Others
from cprec_jax.paths import local_path
from cprec_jax.progress import say
from cprec_jax.workdir import corpus_directory, result_directory

PROTOCOL_VERSION = 1


def evaluate(
    config: Config,
    workdir: Path,
    records: Mapping[str, Mapping[str, Any]],
    store: Store,
    chosen_rule: str | None = None,
    others: Others | None = None,
) -> None:
    """Write the results of the rows that `records` names, each with what it is made from. Only what `store` does not
    hold is ranked.

    chosen_rule: the scoring rule that an earlier result chose; None: it is chosen now, where validation chooses.
    others: the processes that rank their shares of what language models rank.
    """
    others = others or Others()
    spec = config.evaluate
    if spec.general_text is not None and any(spec.names[row].kind in MODEL_KINDS for row in records):
        # a mistake shows before hours of ranking
        read_text(local_path(spec.general_text, "config.evaluate.general_text"))
    corpus = Corpus.open(corpus_directory(workdir))
    data = _open_sets(corpus, spec)
    validation = {}
    tuned = any(is_tuned(spec.names[row]) for name in records for row in spec.rows_of(name))
    if tuned or spec.validates():
        validation = {ranked.name: open_validation(corpus, spec, ranked.name) for ranked in data}
    wanted = list(records)
    registry = Registry(spec=spec, config=config, workdir=workdir, corpus=corpus, validation=validation, store=store)
    chooser = spec.rule_chooser()
    if spec.rule == VALIDATION and chooser is not None and any(map(spec.uses_model, wanted)):
        wanted.sort(key=lambda row: row != chooser)
        if wanted[0] != chooser:  # its result is up to date, or not asked for
            _set_rule(registry, _chosen(chosen_rule, chooser, registry))
    for row in sorted(wanted, key=lambda row: spec.names[row].kind == "ensemble"):  # after its members
        rule = _evaluate_row(row, registry, data, records[row], others)
        registry.forget_members()
        if rule is not None:
            _set_rule(registry, rule)


def _set_rule(registry: Registry, rule: Rule) -> None:
    registry.spec = dataclasses.replace(registry.spec, rule=rule)


def _chosen(recorded: str | None, row: str, registry: Registry) -> Rule:
    """The rule that was recorded; else it is chosen now on `row`, and no result of that row is made."""
    if recorded is not None:
        return cast(Rule, recorded)
    sets = sets_of_row(registry.config, row)
    method, _ = registry.make(row, 0, sets[0] if sets else None)
    assert isinstance(method, TitleModel)
    return method.choose_rule()


def _open_sets(corpus: Corpus, spec: EvaluateSpec) -> list[EvalSet]:
    """The sets that have users, with their slices."""
    for name in spec.sets or ():
        corpus.set_info(name)
    data = [open_ranked(corpus, spec, name) for name in spec.sets or corpus.sets]
    for empty in data:
        if not len(empty):
            say(f"evaluate: {empty.name} has no {spec.split} users; it is left out")
    data = [_with_slices(corpus, eval_set) for eval_set in data if len(eval_set)]
    if not data:
        raise UserError(f"{corpus.path}: no set has {spec.split} users; look at t1 and t2 in its manifest.json")
    return data


def _with_slices(corpus: Corpus, data: EvalSet) -> EvalSet:
    slices = target_slices(corpus, data)
    return dataclasses.replace(data, more_slices=slices.masks, overlap_terciles=slices.overlap_terciles)


def _evaluate_row(
    row: str, registry: Registry, data: Sequence[EvalSet], made_from: Mapping[str, Any], others: Others
) -> Rule | None:
    """Write one result. Returns the scoring rule of a language model."""
    started = time.monotonic()
    config = registry.config
    if (sets := sets_of_row(config, row)) is not None:
        data = [eval_set for eval_set in data if eval_set.name in sets]
        if not data:
            raise UserError(
                f"{PATH}.{row}: its run is one per set ({', '.join(sets)}), and none of these is evaluated; see "
                "config.evaluate.sets"
            )
    kept: list[Cell] = []
    cells: list[dict[str, Cell]] = []  # by seed and set
    rule: Rule | None = None
    for seed in range(seeds_of(config, row)):
        of_seed = {eval_set.name: registry.store.read_cell(row, eval_set.name, seed) for eval_set in data}
        kept += [cell for cell in of_seed.values() if cell is not None]
        missing = [eval_set for eval_set in data if of_seed[eval_set.name] is None]
        ranked = _rank(row, seed, missing, rule, registry, others) if missing else {}
        cells.append({name: cell or ranked[name] for name, cell in of_seed.items()})
        rule = cast(Rule | None, cells[-1][data[0].name].rule)
    if kept:
        say(f"evaluate: {row}: {len(kept)} of {len(cells) * len(data)} sets and seeds were ranked before")
    seconds = time.monotonic() - started + sum(cell.seconds for cell in kept)
    record = _record(row, registry, data, cells, seconds)
    for eval_set in data:
        name = eval_set.name
        _say_result(row, eval_set, record["sets"][name]["protocols"], record["cost"]["seconds_by_set"][name])
    collected = [{name: cell.collected for name, cell in of_seed.items()} for of_seed in cells]
    write_result(result_directory(registry.workdir, registry.spec.split, row), record, data, collected, made_from)
    return rule


def _record(
    row: str, registry: Registry, data: Sequence[EvalSet], cells: Sequence[Mapping[str, Cell]], seconds: float
) -> dict[str, Any]:
    """results.json of a row, from its cells by seed and set. seconds: that it took in all."""
    spec, config, method = registry.spec, registry.config, registry.spec.names[row]
    first = [of_seed[data[0].name] for of_seed in cells]
    steps = {eval_set.name: cells[0][eval_set.name].step for eval_set in data}
    rules = [cell.rule or method.kind for cell in first]
    general = [cell.general_text for cell in first if cell.general_text is not None]
    cost = {eval_set.name: sum(of_seed[eval_set.name].seconds for of_seed in cells) for eval_set in data}
    users = len(cells) * sum(map(len, data))  # once per seed, as the seconds
    record: dict[str, Any] = {
        "name": row,
        "kind": method.kind,
        "step": first[0].step if len(set(steps.values())) == 1 else None,
        **({"step_by_set": steps} if len(set(steps.values())) > 1 else {}),
        **({"run": name_of_run(method, config)} if method.kind in RUN_KINDS else {}),
        "protocol_version": PROTOCOL_VERSION,
        "corpus_hash": registry.corpus.hash,
        "scoring_rule": rules[0] if len(set(rules)) == 1 else rules,
        "split": spec.split,
        "seeds": list(range(len(cells))) if len(cells) > 1 else [spec.seed],
        **({"members": {member: spec.names[member].kind for member in method.members}} if method.members else {}),
        "sets": {
            eval_set.name: set_results(
                eval_set,
                [of_seed[eval_set.name].collected for of_seed in cells],
                cells[0][eval_set.name].facts,
                spec,
            )
            for eval_set in data
        },
        "environment": first[0].environment,
        "cost": {"seconds": seconds, "users_per_second": users / max(sum(cost.values()), 1e-9), "seconds_by_set": cost},
    }
    if method.kind in MODEL_KINDS and config.evaluate.rule == VALIDATION:
        record["rule_chosen_on"] = spec.rule_chooser()
    if general:
        record["general_text"] = general[0] if len(general) == 1 else general
    return record


def _rank(
    row: str, seed: int, missing: Sequence[EvalSet], rule: Rule | None, registry: Registry, others: Others
) -> dict[str, Cell]:
    """Rank the sets that are `missing` of one seed of a row. rule: the one that the first seed of a language model
    chose."""
    registry.store.before_ranking(row)
    if sets_of_row(registry.config, row) is None:
        return _rank_by(None, row, seed, missing, rule, registry, others)
    ranked: dict[str, Cell] = {}
    for eval_set in missing:  # each by a run of its own
        ranked |= _rank_by(eval_set.name, row, seed, [eval_set], rule, registry, others)
    return ranked


def _rank_by(
    part: str | None,
    row: str,
    seed: int,
    missing: Sequence[EvalSet],
    rule: Rule | None,
    registry: Registry,
    others: Others,
) -> dict[str, Cell]:
    """Rank sets by one method. part: the set whose run is loaded, where there is one run per set."""
    spec = registry.spec
    opening = Opening(row=row, seed=seed, part=part)
    if others and spec.names[row].kind in MODEL_KINDS and spec.names[row].step != VALIDATION:
        others.ask(dataclasses.asdict(opening))  # at the same time as this process does
    method, step = registry.make(row, seed, part)
    if spec.names[row].step == VALIDATION:
        opening = dataclasses.replace(opening, step=step)
    if isinstance(method, TitleModel) and rule is not None:
        method.rule = rule
    general = None
    if spec.general_text is not None and isinstance(method, TitleModel):
        general = method.general_text(local_path(spec.general_text, "config.evaluate.general_text"))
        say(f"evaluate: {row}: perplexity {general['perplexity']:.2f} on {general['file']}")
    ranked = {}
    for eval_set in missing:
        begun = time.monotonic()
        if others and isinstance(method, TitleModel):
            collected = collect_by_all(method, opening, eval_set, registry, others)
        else:
            collected = collect(method, eval_set, row)
        seconds = time.monotonic() - begun
        facts = method.facts()
        if spec.leak_probe is not None and isinstance(method, TitleModel) and seed == 0:
            facts = facts | {"leak_probe": method.leak_probe(eval_set, spec.leak_probe)}
        cell = Cell(
            collected=collected,
            facts=facts,
            rule=method.rule if isinstance(method, TitleModel) else None,
            step=step,
            general_text=general,
            seconds=seconds,
            environment=environment(),
        )
        ranked[eval_set.name] = registry.store.write_cell(row, eval_set.name, seed, cell)
    return ranked


def _say_result(row: str, data: EvalSet, protocols: Mapping[str, Any], seconds: float) -> None:
    protocol = FULL if FULL in protocols else next(iter(protocols))
    nll = f", NLL {protocols[protocol]['nll']:.3f}" if "nll" in protocols[protocol] else ""
    say(
        f"evaluate: {row} on {data.name}: {protocol} HR@10 {protocols[protocol]['hr@10']:.4f}{nll}, {len(data)} users "
        f"in {seconds:.1f} s"
    )
