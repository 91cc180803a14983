"""Job `evaluate`: checkpoints and baselines -> WORKDIR/results/NAME."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cprec_jax import workdir as paths
from cprec_jax.artefact import read_manifest
from cprec_jax.config.affects import Settings, settings_of
from cprec_jax.config.evaluate import MODEL_KINDS, SEQUENTIAL_KINDS, TEXT_KINDS, TITLES, VALIDATION, EvaluateSpec, MethodSpec
from cprec_jax.config.root import Config
from cprec_jax.errors import UserError
from cprec_jax.evaluate.runs_of_rows import PATH, runs_of
from cprec_jax.graph import Artefact, Graph
from cprec_jax.paths import local_path

VERSION = 1


def artefacts(config: Config, workdir: Path, corpus: Artefact, runs: Sequence[Artefact]) -> list[Artefact]:
    """A result per row."""
    split = config.evaluate.split
    return [
        Artefact(
            name=f"{paths.results_directory(workdir, split).name}/{name}",
            path=paths.result_directory(workdir, split, name),
            job="evaluate",
            version=VERSION,
            inputs=(corpus, *(runs if _takes_runs(config.evaluate, name) else ())),
            settings=partial(_settings, config, name),
            files=partial(_files, config.evaluate, name),
            facts=partial(_facts, config, name),
            content=lambda manifest: manifest["results_hash"],
        )
        for name in config.evaluate.names
    ]


def rows_behind(spec: EvaluateSpec, name: str) -> list[str]:
    """The rows whose settings decide a result: itself, members, the row that embeddings start from, the row that chooses the rule."""
    rows = list(spec.rows_of(name))
    rows += [row for member in rows if (row := spec.names[member].init) not in (None, TITLES)]
    chooser = spec.rule_chooser()
    if spec.rule == VALIDATION and chooser is not None and any(spec.names[row].kind in MODEL_KINDS for row in rows):
        rows.append(chooser)
    return list(dict.fromkeys(rows))


def kinds_of(spec: EvaluateSpec, name: str) -> set[str]:
    """The kinds of artefacts that a result is (`config/affects.py`)."""
    rows = rows_behind(spec, name)
    kinds = {spec.names[row].kind for row in rows}
    found = {"results", *(f"results:{row}" for row in rows)}
    tests: dict[str, tuple[str, ...]] = {
        "model": MODEL_KINDS,
        "sequential": SEQUENTIAL_KINDS,
        "text_knn": TEXT_KINDS,
        "ensemble": ("ensemble",),
        "runs": ("untrained", "checkpoint"),
        "hf": ("hf",),
    }
    return found | {f"results.{what}" for what, of in tests.items() if not kinds.isdisjoint(of)}


def _settings(config: Config, name: str) -> Settings:
    return settings_of(config, kinds_of(config.evaluate, name))


def _takes_runs(spec: EvaluateSpec, name: str) -> bool:
    """Whether runs of this work directory are asked."""
    return any(spec.names[row].kind in ("untrained", "checkpoint") and spec.names[row].path is None for row in rows_behind(spec, name))


def _files(spec: EvaluateSpec, name: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for row in rows_behind(spec, name):
        found |= {f"{PATH}.{row}.path: {path.name}": path for path in _files_of(spec.names[row], row)}
    if spec.general_text is not None and "results.model" in kinds_of(spec, name):
        found["config.evaluate.general_text"] = local_path(spec.general_text, "config.evaluate.general_text")
    return found


def _files_of(method: MethodSpec, row: str) -> list[Path]:
    """A file of scores, or weights, tokenizer and configuration in a Hugging Face directory."""
    from cprec_jax.hf import hub

    if method.path is None or method.kind == "checkpoint":
        return []
    if method.kind == "scores":
        return [local_path(method.path, f"{PATH}.{row}.path")]
    if not hub.is_directory(method.path):
        return []
    return [p for p in sorted(hub.locate(method.path).iterdir()) if p.suffix in (".safetensors", ".json", ".model", ".txt")]


def _facts(config: Config, name: str) -> dict[str, Any]:
    """Models from the hub by their commit, runs of other work directories by their parameters."""
    from cprec_jax.hf import hub

    spec = config.evaluate
    found: dict[str, Any] = {}
    for row in rows_behind(spec, name):
        method, key = spec.names[row], f"{PATH}.{row}.path"
        if method.path is not None and method.kind == "hf" and not hub.is_directory(method.path):
            found[key] = hub.identity(method.path)
        elif method.path is not None and method.kind == "checkpoint":
            found[key] = [_parameters(path) for path in runs_of(method, Path(), config.seeds)]
    return found


def _parameters(run: Path) -> str:
    manifest = read_manifest(run)
    if manifest is None:
        raise UserError(f"{run}: no finished run; train it first, or take another path")
    return str(manifest["params_sha256"])


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Rank all of them in one go: what several rows share is made once."""
    from cprec_jax.evaluate.harness import evaluate

    evaluate(config, workdir, {result.path.name: graph.made_from(result) for result in wanted}, chosen_rule(config, workdir, graph))


def chosen_rule(config: Config, workdir: Path, graph: Graph) -> str | None:
    """The scoring rule that the row which chooses it recorded, where that result is up to date."""
    from cprec_jax.artefact import read_json

    chooser = config.evaluate.rule_chooser()
    result = next((one for one in graph.of_job("evaluate") if one.path.name == chooser), None)
    if config.evaluate.rule != VALIDATION or result is None or not graph.state(result).usable:
        return None
    recorded = read_json(result.path / "results.json", "evaluate").get("scoring_rule")
    return recorded if isinstance(recorded, str) else None
