"""The job `prepare`: sources -> WORKDIR/corpus. See docs/data-formats.md for what is written."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cprec_jax.artefact import MANIFEST, file_sha256, fingerprint, new_directory, write_json
from cprec_jax.corpus import ITEMS_FILE, VERSION, Corpus, EvalSplit, as_numpy
from cprec_jax.progress import say
from cprec_jax.spec import build
from cprec_jax.text.template import TemplateSpec
from data_prep.adapters import Adapter, KnowsTruth, make_adapters
from data_prep.candidates import draw_candidates
from data_prep.corpus import corpus_hash, describe_files, write_lists
from data_prep.download import download_missing
from data_prep.engine import Engine, Relational
from data_prep.explain import explain
from data_prep.spec import CorpusSpec, corpus_spec
from data_prep.steps import Preparation

CORPUS_FOLDER = "corpus"
EVAL_SPLITS: tuple[EvalSplit, ...] = ("valid", "test")


def prepare_inputs(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """What the corpus is made from: the section without paths and memory settings, and the SHA-256 of every source file."""
    spec = corpus_spec(config)
    if spec.download:
        download_missing(spec)
    return _inputs(spec, make_adapters(spec))


def _inputs(spec: CorpusSpec, adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    hashes = {
        source.name: {which: file_sha256(path) for which, path in adapters[source.adapter].files(source).items()} for source in spec.sources
    }
    return {"job": "prepare", "version": VERSION, "corpus": spec.fingerprint_fields(), "sources": hashes}


def prepare(config: Mapping[str, Any], workdir: Path) -> None:
    """Make WORKDIR/corpus, whole or not at all. Users' mistakes and files beyond repair are `UserError`s."""
    spec = corpus_spec(config)
    if spec.download:
        download_missing(spec)
    adapters = make_adapters(spec)
    inputs = _inputs(spec, adapters)
    with new_directory(Path(workdir) / CORPUS_FOLDER) as folder:
        scratch = folder / "scratch"
        engine = _open_engine(spec, scratch)
        try:
            manifest = {"engine": spec.engine, **Preparation(spec, adapters, engine).run(folder)}
            if spec.explain:
                _write_explanation(config, engine, manifest, folder)
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
        _add_source_hashes(manifest, inputs)
        write_json(folder / MANIFEST, {"version": VERSION, "inputs_hash": fingerprint(inputs), **manifest})
        say(
            f"corpus {manifest['corpus_hash'][:12]}: "
            + ", ".join(f"{name} {info['n_test_users']} test users" for name, info in manifest["sets"].items())
        )


def _open_engine(spec: CorpusSpec, scratch: Path) -> Relational:
    if spec.engine == "duckdb":
        return Engine(scratch, spec.memory_limit, spec.threads)
    from data_prep.spark_engine import SparkEngine

    return SparkEngine(scratch, spec.spark, spec.memory_limit, spec.threads)


def _write_explanation(config: Mapping[str, Any], engine: Relational, manifest: Mapping[str, Any], folder: Path) -> None:
    """explain.md, also printed; sequences are rendered with the words of `config.text.template`."""
    template = build(TemplateSpec, dict(config.get("text", {})).get("template", {}), "config.text.template")
    text = explain(engine, manifest, template)
    (folder / "explain.md").write_text(text, encoding="utf-8")
    print(text)


def is_of_config(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether a corpus was made with the settings of `config.corpus`; its source files are taken for what they were then."""
    try:
        hashes = {name: {which: file["sha256"] for which, file in source["files"].items()} for name, source in manifest["sources"].items()}
    except (LookupError, TypeError, AttributeError):
        return False
    fields = corpus_spec(config).fingerprint_fields()
    return manifest.get("inputs_hash") == fingerprint({"job": "prepare", "version": VERSION, "corpus": fields, "sources": hashes})


def _add_source_hashes(manifest: dict[str, Any], inputs: Mapping[str, Any]) -> None:
    for name, files in inputs["sources"].items():
        for which, sha256 in files.items():
            manifest["sources"][name]["files"][which]["sha256"] = sha256


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
                say(f"{name} {split} {protocol}: only {lists.shape[1]} candidates for some user of this small catalogue{skipped}")
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
