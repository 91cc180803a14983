"""`config.runs`: what is trained, by name. A run inherits `config.train` and `config.model`, key by key."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cprec_jax.config.build import build, nearest
from cprec_jax.config.grid import grid_points
from cprec_jax.config.lora import shown
from cprec_jax.config.run import BASE, COMPUTES, CPT, SFT, RunSpec
from cprec_jax.errors import UserError

LENGTHS = ("steps", "epochs", "tokens")
COMES = ("dpo", "merge")  # stages whose names are taken
OF_SFT = ("sets", "together", "patience")  # keys that only fine-tuning has
OF_CPT = ("mixture", "anneal_mixture")  # keys of `train` that only pre-training has


def build_runs(raw: Mapping[str, Any]) -> dict[str, RunSpec]:
    """The runs of a whole config as plain dicts, each with the sections that it inherits, those that others start from
    first.

    Raises `UserError` with all mistakes: names, stages, unknown or circular starts, keys, and what a run may not
    change.
    """
    runs = raw.get("runs")
    if runs is None:
        runs = {CPT: {}} if raw.get("train") is not None else {}
    if not isinstance(runs, Mapping) or not all(isinstance(run, Mapping) for run in runs.values()):
        raise UserError("config.runs: expected a mapping from names to sections, such as {'cpt': {}}")
    mistakes = [mistake for name, run in runs.items() for mistake in _mistakes(name, run, runs)]
    if mistakes:
        raise UserError("\n".join(mistakes))
    runs_so_far: dict[str, RunSpec] = {}
    models: dict[str, Mapping[str, Any]] = {}
    for name in _in_order(runs):
        try:
            models[name] = _model(raw, name, runs[name], models)
            section = {**runs[name], "train": _train(raw, runs[name]), "model": models[name]}
            where = f"config.runs.{name}" if "runs" in raw else "config"
            runs_so_far[name] = build(RunSpec, section, where)
            grid_points(runs_so_far[name], where)
            _check_line(runs_so_far, name, where)
        except UserError as error:
            mistakes += [
                line.replace(f"config.runs.{name}.train", "config.train") if "runs" not in raw else line
                for line in _lines(error)
            ]
            models.setdefault(name, {})
    if mistakes:
        raise UserError("\n".join(mistakes))
    return runs_so_far


def _check_line(runs: Mapping[str, RunSpec], name: str, where: str) -> None:
    """`UserError` where a run goes on with moments of other parameters than it trains."""
    run = runs[name]
    parent = runs.get(run.parent) if run.parent is not None else None
    if not run.goes_on or parent is None:
        return
    adapter, adapter_of_parent = (
        None if lora is None else dataclasses.replace(lora, dropout=0.0) for lora in (run.lora, parent.lora)
    )
    if adapter != adapter_of_parent:
        what = "no adapter" if adapter_of_parent is None else f"an adapter with {shown(adapter_of_parent)}"
        raise UserError(
            f"{where}.lora: {run.parent!r} trains {what}, and so must a run that goes on with its moments; start from "
            "its parameters "
            "instead"
        )


def _lines(error: UserError) -> list[str]:
    return str(error).splitlines()


def _mistakes(name: str, run: Mapping[str, Any], runs: Mapping[str, Any]) -> list[str]:
    """What is wrong with a run's name, stage and start."""
    where = f"config.runs.{name}"
    mistakes = []
    if not name or not all((c.isascii() and c.isalnum()) or c in "-_" for c in name) or name == BASE:
        mistakes.append(f"{where}: the name becomes a directory: use letters, digits, '-' and '_', and not {BASE!r}")
    stage = run.get("stage", CPT)
    if stage in COMES:
        mistakes.append(f"{where}.stage: {stage!r} is not there yet; 'cpt' and 'sft' are")
    mistakes += [
        f"{where}.{section}: belongs to the stage {section!r}, and the run is of the stage {stage!r}"
        for section in (CPT, SFT)
        if section in run and section != stage
    ]
    if stage != SFT:
        mistakes += [
            f"{where}.{key}: belongs to the stage 'sft', and the run is of the stage {stage!r}"
            for key in OF_SFT
            if key in run
        ]
    else:
        given = [key for key in OF_CPT if key in (run.get("train") or {})]
        mistakes += [
            f"{where}.train.{key}: belongs to the stage 'cpt'; fine-tuning reads all rows of its sets" for key in given
        ]
    parent = _parent(run)
    if parent is not None and parent not in runs:
        mistakes.append(f"{where}.start: no run {parent!r}{nearest(parent, [*runs, BASE])}")
    line, ancestor = [name], parent
    while ancestor is not None and ancestor in runs and ancestor not in line:
        line.append(ancestor)
        ancestor = _parent(runs[ancestor])
    if ancestor == name:
        mistakes.append(f"{where}.start: a ring: {' starts from '.join([*line, name])}")
    return mistakes


def _parent(run: Mapping[str, Any]) -> str | None:
    start = run.get("start", BASE)
    start = start.get("run") if isinstance(start, Mapping) else start
    return None if start is None or str(start) == BASE else str(start)


def _in_order(runs: Mapping[str, Any]) -> list[str]:
    """Those that others start from first."""
    done: list[str] = []

    def visit(name: str) -> None:
        parent = _parent(runs[name])
        if parent is not None:
            visit(parent)
        if name not in done:
            done.append(name)

    for name in runs:
        visit(name)
    return done


def _train(raw: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """`config.train` with what the run says, key by key; a length of its own replaces the inherited one."""
    inherited, overrides = dict(raw.get("train") or {}), run.get("train") or {}
    if any(overrides.get(key) is not None for key in LENGTHS):
        inherited = {key: value for key, value in inherited.items() if key not in LENGTHS}
    if run.get("stage") == SFT:
        inherited = {key: value for key, value in inherited.items() if key not in OF_CPT}
    merged = _merged(inherited, overrides)
    goes_on = isinstance(run.get("start"), Mapping) and run["start"].get("run") is not None
    if goes_on and "warmup" not in (overrides.get("schedule") or {}):
        merged["schedule"] = {**(merged.get("schedule") or {}), "warmup": 0.0}
    return merged


def _model(
    raw: Mapping[str, Any], name: str, run: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """`config.model`, or the model of the run that it starts from, with what the run says."""
    overrides, parent, start = dict(run.get("model") or {}), _parent(run), run.get("start", BASE)
    inherited = dict((raw.get("model") or {}) if parent is None else models[parent])
    another = isinstance(start, Mapping) and start.get("hf") is not None
    if another:
        inherited = {**{key: value for key, value in inherited.items() if key in COMPUTES}, "init_from": start["hf"]}
    if parent is not None or another or inherited.get("init_from") is not None:
        for key in overrides:
            if key not in COMPUTES:
                raise UserError(
                    f"config.runs.{name}.model.{key}: the model is that of {parent or inherited['init_from']}, so a "
                    "run may only change "
                    f"{', '.join(COMPUTES)}"
                )
    return {**inherited, **overrides}


def _merged(inherited: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(inherited)
    for key, value in overrides.items():
        before = both.get(key)
        both[key] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return both
