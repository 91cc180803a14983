"""Job `evaluate`: checkpoints and baselines -> WORKDIR/results/NAME."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cprec_jax import workdir as paths
from cprec_jax.artefact import read_manifest
from cprec_jax.config.affects import Settings, settings_of
from cprec_jax.config.evaluate import (
    MODEL_KINDS,
    RUN_KINDS,
    SEQUENTIAL_KINDS,
    TEXT_KINDS,
    TITLES,
    VALIDATION,
    EvaluateSpec,
    MethodSpec,
)
from cprec_jax.config.root import Config
from cprec_jax.errors import UserError
from cprec_jax.graph import Artefact, Graph
from cprec_jax.jobs import train
from cprec_jax.methods.runs_of_rows import PATH, parts_of, runs_of, seeds_of, sets_of_row
from cprec_jax.parallel import processes
from cprec_jax.paths import local_path
from cprec_jax.run_key import RunKey

Seeds = Mapping[str, Sequence[int]]  # by row

VERSION = 1
VERSION_OF_TRAINED = 1
# what is made of ranks, and how many seeds there are
NOT_OF_CELLS = (
    "evaluate.bootstrap",
    "evaluate.seeds",
    "train.seeds",
)


def artefacts(config: Config, workdir: Path, corpus: Artefact, runs: Sequence[Artefact]) -> list[Artefact]:
    """A result per row."""
    split = config.evaluate.split
    return [
        Artefact(
            name=f"{paths.results_directory(workdir, split).name}/{name}",
            path=paths.result_directory(workdir, split, name),
            job="evaluate",
            version=VERSION,
            inputs=(
                corpus,
                *(run for run in runs if run.path in _runs(config, workdir, _seeds(config, name), _sets(config, name))),
            ),
            settings=partial(_settings, config, name),
            files=partial(_files, config.evaluate, name),
            facts=partial(_facts_of_all_seeds, config, name),
            content=lambda manifest: manifest["results_hash"],
            prunable=False,
        )
        for name in config.evaluate.names
    ]


def cell(config: Config, workdir: Path, graph: Graph, name: str, set_name: str, seed: int) -> Artefact:
    """The ranks of one row, set and seed: no node of the graph, since which sets there are is known only when there is
    a corpus."""
    behind = _seeds(config, name, seed)
    runs = _runs(config, workdir, behind, (set_name,))
    return Artefact(
        name=f"cells/{name}/{set_name}.seed-{seed}",
        path=paths.cell_directory(workdir, config.evaluate.split, name, set_name, seed),
        job="evaluate",
        version=VERSION,
        inputs=(*graph.of_job("prepare"), *(run for run in graph.of_job("train") if run.path in runs)),
        settings=partial(_settings_of_cell, config, name),
        files=partial(_files, config.evaluate, name),
        facts=partial(_facts_of_cell, config, behind, set_name),
    )


def trained(config: Config, workdir: Path, graph: Graph, row: str, set_name: str, seed: int) -> Artefact:
    """The parameters that evaluation trains for one row, set and seed, whatever is ranked with them."""
    init = {name: [0] for name in _init_rows(config.evaluate, row)}
    runs = _runs(config, workdir, init, (set_name,))
    return Artefact(
        name=f"trained/{row}@{set_name}.seed-{seed}",
        path=paths.trained_directory(workdir, row, set_name, seed),
        job="evaluate",
        version=VERSION_OF_TRAINED,
        inputs=(*graph.of_job("prepare"), *(run for run in graph.of_job("train") if run.path in runs)),
        settings=lambda: _settings(config, row).where(partial(_is_of_training, (row, *init))),
        files=partial(_files_of_rows, config.evaluate, init),
        facts=partial(_facts, config, init, (set_name,)),
    )


def _settings_of_cell(config: Config, name: str) -> Settings:
    """Those of the result that change ranks. All sets together choose a rule or a step; nothing else of a set depends
    on the others."""
    spec, kinds = config.evaluate, kinds_of(config.evaluate, name)
    together = any(spec.names[row].step == VALIDATION for row in rows_behind(spec, name))
    together |= spec.rule == VALIDATION and "results.model" in kinds
    left_out = {*NOT_OF_CELLS, *(() if together else ("evaluate.sets",))}
    return settings_of(config, kinds).where(lambda key: key not in left_out)


def _is_of_training(rows: Sequence[str], key: str) -> bool:
    """Whether a setting changes what GRU4Rec and SASRec learn: the mask is that of the validation users they stop
    on."""
    sections = ("evaluate.sequential.", "text.template.", *(f"evaluate.names.{row}." for row in rows))
    return key == "evaluate.mask_history" or key.startswith(sections)


def rows_behind(spec: EvaluateSpec, name: str) -> list[str]:
    """The rows whose settings a result depends on: itself, members, the row that embeddings start from, the row that
    chooses the rule."""
    return list(dict.fromkeys([*spec.rows_of(name), *_of_first_seed(spec, name)]))


def _of_first_seed(spec: EvaluateSpec, name: str) -> list[str]:
    """The rows behind a result whose first seed serves all seeds."""
    rows = [*spec.rows_of(name), *(init := _init_rows(spec, name))]
    chooser = spec.rule_chooser()
    if spec.rule == VALIDATION and chooser is not None and any(spec.names[row].kind in MODEL_KINDS for row in rows):
        return [*init, chooser]
    return init


def _init_rows(spec: EvaluateSpec, name: str) -> list[str]:
    """The rows that embeddings of a row and its members start from."""
    return [row for member in spec.rows_of(name) if (row := spec.names[member].init) not in (None, TITLES)]


def kinds_of(spec: EvaluateSpec, name: str) -> set[str]:
    """The kinds of artefacts that a result is (`config/affects.py`)."""
    rows = rows_behind(spec, name)
    kinds = {spec.names[row].kind for row in rows}
    sections = {"results", *(f"results:{row}" for row in rows)}
    tests: dict[str, tuple[str, ...]] = {
        "model": MODEL_KINDS,
        "sequential": SEQUENTIAL_KINDS,
        "text_knn": TEXT_KINDS,
        "ensemble": ("ensemble",),
        "runs": RUN_KINDS,
        "hf": ("hf",),
    }
    return sections | {f"results.{what}" for what, of in tests.items() if not kinds.isdisjoint(of)}


def _settings(config: Config, name: str) -> Settings:
    return settings_of(config, kinds_of(config.evaluate, name))


def _facts_of_all_seeds(config: Config, name: str) -> dict[str, Any]:
    return _facts(config, _seeds(config, name), _sets(config, name))


def _seeds(config: Config, name: str, seed: int | None = None) -> Seeds:
    """The rows behind a result and which of their seeds decide it; seed: only those that decide this seed of the
    result."""
    spec = config.evaluate
    if seed is None:
        return {row: list(range(seeds_of(config, row))) for row in rows_behind(spec, name)}
    numbers = {row: {seed % seeds_of(config, row)} for row in spec.rows_of(name)}
    for row in _of_first_seed(spec, name):
        numbers.setdefault(row, set()).add(0)
    return {row: sorted(seeds) for row, seeds in numbers.items()}


def _sets(config: Config, name: str) -> tuple[str, ...]:
    """The sets of a result that a run per set stands behind, as far as they are evaluated; none where no run is."""
    evaluated = config.evaluate.sets
    return tuple(set_name for set_name in sets_of_row(config, name) or () if evaluated is None or set_name in evaluated)


def _parts(row: MethodSpec, config: Config, sets: Sequence[str]) -> list[str | None]:
    """Those of `sets` of which a row has a run each; None: one run serves all."""
    parts = parts_of(row, config)
    return [None] if parts is None else [set_name for set_name in sets if set_name in parts]


def _runs(config: Config, workdir: Path, behind: Seeds, sets: Sequence[str]) -> set[Path]:
    """The runs of this work directory that rows evaluate on these sets."""
    rows = [(config.evaluate.names[row], seeds) for row, seeds in behind.items()]
    of_runs = [(row, seeds) for row, seeds in rows if row.kind in RUN_KINDS and row.path is None]
    return {
        RunKey(name=config.run_of_row(row), part=part, seed=seed).directory(workdir)
        for row, seeds in of_runs
        for part in _parts(row, config, sets)
        for seed in seeds
    }


def _files(spec: EvaluateSpec, name: str) -> dict[str, Path]:
    files = _files_of_rows(spec, rows_behind(spec, name))
    if spec.general_text is not None and "results.model" in kinds_of(spec, name):
        files["config.evaluate.general_text"] = local_path(spec.general_text, "config.evaluate.general_text")
    return files


def _files_of_rows(spec: EvaluateSpec, rows: Iterable[str]) -> dict[str, Path]:
    return {f"{PATH}.{row}.path: {path.name}": path for row in rows for path in _files_of(spec.names[row], row)}


def _files_of(method: MethodSpec, row: str) -> list[Path]:
    """A file of scores, or weights, tokenizer and configuration in a Hugging Face directory."""
    from cprec_jax.hf import hub

    if method.path is None or method.kind == "checkpoint":
        return []
    if method.kind == "scores":
        return [local_path(method.path, f"{PATH}.{row}.path")]
    if not hub.is_directory(method.path):
        return []
    return [
        p for p in sorted(hub.locate(method.path).iterdir()) if p.suffix in (".safetensors", ".json", ".model", ".txt")
    ]


def _facts(config: Config, behind: Seeds, sets: Sequence[str]) -> dict[str, Any]:
    """Models from the hub by their commit, runs of other work directories by their parameters."""
    from cprec_jax.hf import hub

    spec = config.evaluate
    facts: dict[str, Any] = {}
    for row, seeds in behind.items():
        method, key = spec.names[row], f"{PATH}.{row}.path"
        if method.path is not None and method.kind == "hf" and not hub.is_directory(method.path):
            facts[key] = hub.identity(method.path)
        elif method.path is not None and method.kind == "checkpoint":
            facts[key] = [
                _parameters(runs_of(method, config, Path(), part)[seed])
                for part in _parts(method, config, sets)
                for seed in seeds
            ]
    return facts


def _facts_of_cell(config: Config, behind: Seeds, set_name: str) -> dict[str, Any]:
    """Seeds of what evaluation trains, too; those of runs stand in the names of the runs."""
    of_trained = {row: seeds for row, seeds in behind.items() if config.evaluate.names[row].kind in SEQUENTIAL_KINDS}
    return _facts(config, behind, (set_name,)) | ({"seeds of what evaluation trains": of_trained} if of_trained else {})


def _parameters(run: Path) -> str:
    manifest = read_manifest(run)
    if manifest is None:
        raise UserError(f"{run}: no finished run; train it first, or take another path")
    return str(manifest["params_sha256"])


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Make all results together, since what several rows share is made once. Only what no cell holds is ranked.

    The first process makes them; the others rank their shares of what language models rank.
    """

    @functools.cache
    def ranker() -> Any:
        from cprec_jax.jobs.making.shared_ranking import Ranker

        return Ranker(config, workdir, _store(config, workdir, wanted, graph))

    if processes.count() > 1:  # what must be replayed is trained by all, before anything is ranked
        train.save_what_rows_need(config, workdir, wanted, graph)
    make_results = partial(_make_results, config, workdir, wanted, graph)
    processes.by_first_with_others(make_results, lambda request, check: ranker().answer(request, check))


def _make_results(
    config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph, others: processes.Others
) -> None:
    from cprec_jax.jobs.making.evaluate import evaluate

    records = {result.path.name: graph.made_from(result) for result in wanted}
    store = _store(config, workdir, wanted, graph)
    evaluate(config, workdir, records, store, chosen_rule(config, workdir, graph), others)


def _store(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> Any:
    """The `Store` of what is evaluated."""
    from cprec_jax.evaluate.kept import Store

    results = {result.path.name: result for result in wanted}
    return Store(
        graph=graph,
        cell=partial(cell, config, workdir, graph),
        trained=partial(trained, config, workdir, graph),
        before_ranking=lambda name: train.save_what_rows_need(config, workdir, [results[name]], graph),
    )


def chosen_rule(config: Config, workdir: Path, graph: Graph) -> str | None:
    """The scoring rule that the row which chooses it recorded, where that result is up to date."""
    from cprec_jax.evaluate.results import read_result

    chooser = config.evaluate.rule_chooser()
    result = next((result for result in graph.of_job("evaluate") if result.path.name == chooser), None)
    if config.evaluate.rule != VALIDATION or result is None or not graph.state(result).usable:
        return None
    recorded = read_result(result.path / paths.RESULTS_FILE).scoring_rule
    return recorded if isinstance(recorded, str) else None
