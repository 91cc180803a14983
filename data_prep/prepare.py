"""The job `prepare`: sources -> WORKDIR/corpus. See docs/data-formats.md for what is written."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cprec_jax.artefact import new_directory, write_manifest
from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.text import TemplateSpec
from cprec_jax.corpus import ITEMS_FILE, VERSION, Corpus, EvalSplit, as_numpy
from cprec_jax.errors import UserError
from cprec_jax.progress import say
from data_prep.adapters import Adapter, KnowsTruth, make_adapters
from data_prep.candidates import draw_candidates
from data_prep.engine import Engine, Relational
from data_prep.explain import explain
from data_prep.steps.run import run_steps
from data_prep.write_corpus import corpus_hash, describe_files, write_lists

EVAL_SPLITS: tuple[EvalSplit, ...] = ("valid", "test")


def source_files(spec: CorpusSpec) -> dict[str, Path]:
    """Every file that the corpus is made from, by `SOURCE.interactions`, `SOURCE.items` and the like. A missing one is
    a `UserError`."""
    adapters = make_adapters(spec)
    return {
        f"{source.name}.{which}": path
        for source in spec.sources
        for which, path in adapters[source.adapter].files(source).items()
    }


def missing_sources(spec: CorpusSpec) -> list[str]:
    """What is wrong with the files of the sources, one line each. Those that `download` would fetch are left out."""
    adapters = make_adapters(spec)
    mistakes: dict[str, None] = {}
    for source in spec.sources:
        if spec.download and source.urls:
            continue
        try:
            adapters[source.adapter].files(source)
        except UserError as error:
            mistakes[str(error)] = None
    return list(mistakes)


def prepare(spec: CorpusSpec, template: TemplateSpec, target: Path, made_from: Mapping[str, Any]) -> None:
    """Make the corpus in `target`, whole or not at all. Users' mistakes and files beyond repair are `UserError`s.

    template: whose words explain.md uses; made_from: for the manifest, with the SHA-256 of `source_files` under
    `files`.
    """
    adapters = make_adapters(spec)
    with new_directory(target) as folder:
        scratch = folder / "scratch"
        engine = _open_engine(spec, scratch)
        try:
            manifest = {"engine": spec.engine, **run_steps(spec, adapters, engine, folder)}
            if spec.explain:
                _write_explanation(template, engine, manifest, folder)
        finally:
            engine.close()
        shutil.rmtree(scratch)
        manifest["files"] = describe_files(folder)
        # Through the reader that everybody else uses.
        corpus = Corpus(folder, {**manifest, "corpus_hash": ""})
        manifest["candidates"] = _write_candidates(spec, corpus, folder)
        _write_oracles(spec, adapters, corpus, folder)
        manifest["files"] = describe_files(folder, manifest["files"])
        manifest["corpus_hash"] = corpus_hash(folder, list(manifest["files"]))
        _add_source_hashes(manifest, made_from["files"])
        write_manifest(folder, made_from, {"version": VERSION, **manifest})
        say(
            f"corpus {manifest['corpus_hash'][:12]}: "
            + ", ".join(f"{name} {info['n_test_users']} test users" for name, info in manifest["sets"].items())
        )


def _open_engine(spec: CorpusSpec, scratch: Path) -> Relational:
    if spec.engine == "duckdb":
        return Engine(scratch, spec.memory_limit, spec.threads)
    from data_prep.spark_engine import SparkEngine

    return SparkEngine(scratch, spec.spark, spec.memory_limit, spec.threads)


def _write_explanation(spec: TemplateSpec, engine: Relational, manifest: Mapping[str, Any], folder: Path) -> None:
    """explain.md, also printed; sequences are rendered with the words of `config.text.template`."""
    text = explain(engine, manifest, spec)
    (folder / "explain.md").write_text(text, encoding="utf-8")
    print(text)


def _add_source_hashes(manifest: dict[str, Any], hashes: Mapping[str, str]) -> None:
    for name, source in manifest["sources"].items():
        for which, file in source["files"].items():
            file["sha256"] = hashes[f"{name}.{which}"]


def _write_candidates(spec: CorpusSpec, corpus: Corpus, folder: Path) -> dict[str, Any]:
    """candidates/SPLIT.SET.PROTOCOL.parquet for every set with users; returns how many candidates each list has."""
    sizes: dict[str, Any] = {}
    if not spec.candidates.protocols:
        return sizes
    # Not `corpus.items`, which holds every title and id as text of Python's.
    with pq.ParquetFile(folder / ITEMS_FILE) as opened:  # `read_table` would import pyarrow.dataset and with it pandas
        items = opened.read(columns=["domain", "title", "train_count"]).combine_chunks()
    # Numbers that are equal where titles are.
    title_id = as_numpy(items["title"].combine_chunks().dictionary_encode().indices)
    domain, train_count = (as_numpy(items[name].combine_chunks()) for name in ("domain", "train_count"))
    for name, split in [(name, split) for name in corpus.sets for split in EVAL_SPLITS]:
        targets = corpus.targets(split, name)
        catalogue = np.flatnonzero(domain == corpus.sets[name].domain_id).astype(np.int32)
        if not len(targets):
            continue
        for protocol in spec.candidates.protocols:
            lists = draw_candidates(
                protocol,
                set_name=name,
                split=split,
                seed=spec.candidates.seed,
                user=targets.user,
                target=np.searchsorted(catalogue, targets.target),
                offsets=targets.offsets,
                history=np.searchsorted(catalogue, targets.items),
                train_count=train_count[catalogue],
                title_id=title_id[catalogue],
            )
            entry = sizes.setdefault(name, {}).setdefault(protocol, {"asked": int(protocol[1:])})
            entry[split] = lists.shape[1]
            if lists.shape[1] < entry["asked"]:
                skipped = " (left out)" if lists.shape[1] < 2 else ""
                say(
                    f"{name} {split} {protocol}: only {lists.shape[1]} candidates for some user of this small "
                    f"catalogue{skipped}"
                )
            if lists.shape[1] >= 2:
                path = folder / "candidates" / f"{split}.{name}.{protocol}.parquet"
                write_lists(path, {"user": targets.user, "target": targets.target}, "candidates", catalogue[lists])
    return sizes


def _write_oracles(spec: CorpusSpec, adapters: Mapping[str, Adapter], corpus: Corpus, folder: Path) -> None:
    """oracle/SPLIT.SET.parquet where the adapter knows the true distribution."""
    for source in spec.sources:
        adapter = adapters[source.adapter]
        if not isinstance(adapter, KnowsTruth):
            continue
        item_id = corpus.item_ids
        catalogue = [item_id[item] for item in corpus.catalogue(source.name)]
        for split in EVAL_SPLITS:
            targets = corpus.targets(split, source.name)
            history = [item_id[item] for item in targets.items]
            scores = adapter.oracle(source, targets.user, targets.offsets, history, catalogue)
            write_lists(folder / "oracle" / f"{split}.{source.name}.parquet", {"user": targets.user}, "scores", scores)
