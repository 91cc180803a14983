"""The reproducibility card: what somebody needs to make the figures of a report again, as card.md for people and
card.json for programs.

Everything comes from what the jobs recorded; what a job did not record is left out, never guessed.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cprec_jax.artefact import MADE_FROM, fingerprint, read_json, read_manifest
from cprec_jax.evaluate.results import Result
from cprec_jax.report.corpus_summary import corpus_tables
from cprec_jax.report.render import markdown_table
from cprec_jax.report.table import NOTHING, Cell, Column, Row, Table, describe
from cprec_jax.report.training_metrics import read_metrics
from cprec_jax.workdir import DESCRIPTION, run_directories

NOT_CHOSEN = (
    "users",
    "items",
    "too_small",
    "protocols",
    "slices",
    "history_masked",
    "uniform_nll",
    "overlap_terciles",
    "members",
)
LONG = 12  # entries of a grid beyond which the card counts them; card.json has them all


def card(manifest: Mapping[str, Any], results: Sequence[Result], workdir: Path) -> dict[str, Any]:
    """Everything recorded: `data`, `runs`, `rows` (by name) and `environments` (each once, with the rows made
    there)."""
    rows = {result.name: _row_of(result) for result in results if result.folder is not None}
    environments: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        if environment := row["environment"]:
            environments.setdefault(fingerprint(environment), {**environment, "rows": []})["rows"].append(name)
    kept = ("corpus_hash", "seed", "sources", "times", "filters", "counts", "rejected", "titles", "mixed", "sets")
    return {
        "data": {key: manifest[key] for key in kept if key in manifest},
        "runs": _runs(workdir),
        "rows": rows,
        "environments": list(environments.values()),
    }


def card_markdown(title: str, facts: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The card for people."""
    parts = [
        f"# {title}: reproducibility card",
        "card.json has the same in full: every value tried, every setting.",
        "## Commands",
        _commands(facts),
        "## Machines and versions",
        markdown_table(_environments(facts)) if facts["environments"] else "Not recorded.",
        "## Data",
        f"Corpus {manifest['corpus_hash']}.",
        markdown_table(_files(manifest)),
        *map(markdown_table, corpus_tables(manifest)),
        *(["## Runs", markdown_table(_run_table(facts["runs"]))] if facts["runs"] else []),
        "## Rows",
        markdown_table(_row_table(facts["rows"])),
        *(markdown_table(table) for table in _choices(facts["rows"])),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _row_of(result: Result) -> dict[str, Any]:
    assert result.folder is not None
    manifest = read_manifest(result.folder) or {}
    return {
        "kind": result.kind,
        "seeds": result.seeds,
        "step": result.step,
        "scoring_rule": result.scoring_rule,
        "split": result.split,
        "inputs_hash": manifest.get("inputs_hash", ""),
        "settings": manifest.get(MADE_FROM, {}).get("settings", {}),
        "chosen": {name: _chosen(of_set.entry) for name, of_set in result.sets.items()},
        "users": {name: of_set.entry.get("users") for name, of_set in result.sets.items()},
        "seconds": result.cost.get("seconds"),
        "environment": result.environment,
    }


def _chosen(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in NOT_CHOSEN and "@" not in key}


def _runs(workdir: Path) -> dict[str, Any]:
    """By run: parameters' hash, seed and settings of the training, tokens and hours as the last line of its metrics has
    them."""
    metrics = read_metrics(workdir)
    runs: dict[str, Any] = {}
    for run in run_directories(workdir):
        if not (run / DESCRIPTION).is_file():
            continue
        description = read_json(run / DESCRIPTION, "train")
        done = read_manifest(run) or {}
        last = metrics.get(run.name, [{}])[-1]
        runs[run.name] = {
            "steps": done.get("step", last.get("step")),
            "tokens": last.get("tokens"),
            "hours": None if last.get("seconds") is None else last["seconds"] / 3600,
            "params_sha256": done.get("params_sha256", ""),
            "model": description.get("model", {}),
            "train": description.get("train", {}),
        }
    return json.loads(json.dumps(runs, default=list))


def _commands(facts: Mapping[str, Any]) -> str:
    commands = dict.fromkeys(machine["command"] for machine in facts["environments"] if machine.get("command"))
    if not commands:
        return "Not recorded."
    return (
        "Those that made the rows, with the same --config and --workdir after `prepare` (and `pack` and `train`, "
        "where there are runs):\n\n" + ("```sh\n" + "\n".join(commands) + "\n```")
    )


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    lines = tuple(Row(cells=tuple(Cell(text=text) for text in row)) for row in rows)
    return Table(title=title, columns=tuple(Column(name=name) for name in names), rows=lines, text_columns=len(names))


def _environments(facts: Mapping[str, Any]) -> Table:
    rows = [
        (
            ", ".join(environment["rows"]),
            describe(environment.get("machine")),
            describe(environment.get("versions")),
            str(environment.get("commit") or NOTHING),
        )
        for environment in facts["environments"]
    ]
    return _table("Where the rows were made", ("Rows", "Machine", "Versions", "Commit"), rows)


def _files(manifest: Mapping[str, Any]) -> Table:
    rows = [
        (name, what, "/".join(Path(file["path"]).parts[-2:]), file["sha256"])
        for name, source in manifest.get("sources", {}).items()
        for what, file in source.get("files", {}).items()
        if isinstance(file, Mapping) and {"path", "sha256"} <= set(file)
    ]
    return _table("Files", ("Source", "What", "File", "SHA-256"), rows)


def _run_table(runs: Mapping[str, Any]) -> Table:
    keys = ("steps", "tokens", "hours", "params_sha256", "model", "train")
    rows = [(name, *(describe(run[key]) for key in keys)) for name, run in runs.items()]
    return _table(
        "What was trained", ("Run", "Steps", "Tokens", "Hours", "SHA-256 of parameters", "Model", "Training"), rows
    )


def _row_table(rows: Mapping[str, Any]) -> Table:
    lines = []
    for name, row in rows.items():
        hours = NOTHING if row["seconds"] is None else f"{row['seconds'] / 3600:.2f}"
        values = (row["kind"], row["seeds"], row["step"], row["scoring_rule"])
        lines.append((name, *map(describe, values), hours, row["inputs_hash"][:16] or NOTHING))
    return _table("What the rows are", ("Row", "Kind", "Seeds", "Step", "Scoring rule", "Hours", "Inputs"), lines)


def _choices(rows: Mapping[str, Any]) -> list[Table]:
    """One table per row that chose something: by set, what was chosen and from what."""
    tables = []
    for name, row in rows.items():
        lines = []
        for set_name, chosen in row["chosen"].items():
            tried = {key: value for key, value in chosen.items() if isinstance(value, Mapping) and len(value) > LONG}
            tried |= {"tried": chosen["tried"]} if chosen.get("tried") else {}
            plain = {key: value for key, value in chosen.items() if key not in tried}
            if plain:
                lines.append(
                    (
                        set_name,
                        describe(plain),
                        ", ".join(f"{len(value)} {key}" for key, value in tried.items()) or NOTHING,
                    )
                )
        if lines:
            tables.append(_table(f"{name}: chosen and counted", ("Set", "Values", "Tried on validation"), lines))
    return tables
