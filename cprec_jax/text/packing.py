"""Job `pack`: corpus + tokenizer + template -> packed rows of fixed length, one split per source.

Rows of several kinds, each an artefact of its own. `cpt`: from the pre-training domains, their mixed sequences, general text and the
optional sources that a mixture asks for. `sft`: from the training sequences of the sets that runs are fine-tuned on, in the same template
and with the same tokenizer.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax import artefact
from cprec_jax.config.pack import PackSpec
from cprec_jax.config.root import Config
from cprec_jax.config.rows import RowsKind
from cprec_jax.config.text import TRAIN, TextSpec
from cprec_jax.config.train import OPTIONAL_SOURCES
from cprec_jax.corpus import Corpus
from cprec_jax.data import rows
from cprec_jax.data.shards import PieceTable, ShardWriter
from cprec_jax.errors import UserError
from cprec_jax.hf import adapter, hub
from cprec_jax.progress import Progress, say
from cprec_jax.text import documents, new_tokens, plain_text, tokenizer, tokenizer_files
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.packer import SplitPacker, cores, used_workers
from cprec_jax.text.plain_text import PlainText
from cprec_jax.text.row_sources import BARE, Behaviour, RowSource, Scope, optional_source, source_generator
from cprec_jax.text.template import Template
from cprec_jax.text.unknown_titles import titles_unknown
from cprec_jax.workdir import corpus_directory, rows_directory, tokenizer_directory

MIXED = "mixed"


def pack(config: Config, workdir: Path, kind: RowsKind, made_from: Mapping[str, Any]) -> None:
    """Write WORKDIR/rows/KIND: the TFDS dataset, the tokenizer it was made with, and manifest.json, which says what it was `made_from`."""
    text, pack_spec, stage = config.text, config.pack, kind.name
    corpus = Corpus.open(corpus_directory(workdir))
    sets = sets_of(corpus, kind, config.rows_kinds[kind])
    with artefact.new_directory(rows_directory(workdir, stage)) as directory:
        optional = config.row_sources if kind.stage == "cpt" else ()
        needed = _needed_items(corpus, sets, optional)
        tokens = _tokenizer(text, corpus, _given_tokenizer(config, workdir, kind), directory / "tokenizer", sets)
        base_vocab_size = tokens.size
        named = new_tokens.texts(text.new_tokens, [*corpus.domains, text.template.all_domains])
        tokens, added = new_tokens.add(directory / "tokenizer", named)
        catalogue = Catalogue.build(tokens, corpus.items.title, text.template.end_of_item, needed)
        tokens_per_item = float(catalogue.lengths[needed].mean()) if len(needed) else 0.0
        template = Template(text.template, tokens)
        say(
            f"pack {stage}: {len(needed)} of {len(catalogue)} items, {tokens_per_item:.2f} tokens per item, vocabulary {tokens.size}, "
            f"{len(added)} of it new"
        )
        if losses := tokenizer_losses(catalogue, needed, tokens, text.template.end_of_item):
            say(f"warning: pack {stage}: the tokenizer loses parts of titles: {losses}")
        statistics = _write_splits(directory, corpus, catalogue, template, pack_spec, kind, sets, tokens, optional)
        if not any(entry["rows"] for name, entry in statistics.items() if name not in optional):
            what = "pretrain" if kind.stage == "cpt" else f"training ({', '.join(sets)})"
            raise UserError(f"{corpus.path}: no {what} sequence is left to pack; see `rejected` in its manifest.json")
        shards = {p.name: artefact.file_sha256(p) for p in sorted(directory.glob("*.array_record*"))}
        apart = optional if kind.stage == "cpt" else sets
        of_source = {name: {p: value for p, value in shards.items() if p.startswith(rows.shard_prefix(name))} for name in apart}
        always = {p: value for p, value in shards.items() if not any(p in of_source[name] for name in optional)}
        facts = {
            "stage": kind.stage,
            "rows_hash": artefact.fingerprint(always),
            "source_hashes": {name: artefact.fingerprint(found) for name, found in of_source.items()},
            "catalogue_hashes": {name: _titles_hash(corpus, name) for name in sets},
            "tokenizer_hash": artefact.fingerprint(
                {path.name: artefact.file_sha256(path) for path in tokenizer_files.input_files(directory / "tokenizer")}
            ),
            "corpus_hash": corpus.hash,
            "row_length": pack_spec.row_length,
            "vocab_size": tokens.size,
            "base_vocab_size": base_vocab_size,
            "new_tokens": added,
            "named_tokens": named,
            "unknown_tokens": catalogue.unknown_tokens,
            "confused_titles": catalogue.confused_titles,
            "tokenizer_losses": losses,
            "items_tokenised": len(needed),
            "tokens_per_item": tokens_per_item,
            "template": dataclasses.asdict(text.template),
            "splits": statistics,
            "shards": shards,
        }
        artefact.write_manifest(directory, made_from, facts)
    for name, row in statistics.items():
        say(f"pack {stage}: {name}: {row['documents']} documents, {row['tokens']} tokens in {row['rows']} rows, {row['fill']:.1%} full")


def tokenizer_losses(catalogue: Catalogue, items: np.ndarray, tokens: tokenizer.Tokenizer, end_of_item: str) -> str:
    """`Catalogue.losses`, and before it the share of the items' titles that are nothing but the unknown token."""
    n_unknown = titles_unknown(catalogue, items, tokens, end_of_item)
    unknown = f"{n_unknown / max(len(items), 1):.2%} of the titles ({n_unknown}) are nothing but the unknown token"
    return ", ".join(part for part in (unknown if n_unknown else "", catalogue.losses) if part)


def sets_of(corpus: Corpus, kind: RowsKind, named: Sequence[str]) -> list[str]:
    """The sets whose training sequences rows of a kind hold: of pre-training all its domains, of fine-tuning those that are named, or all
    downstream sets."""
    if kind.stage == "sft" and named:
        return [corpus.set_info(name).name for name in named]
    role = "pretrain" if kind.stage == "cpt" else "downstream"
    found = [name for name, info in corpus.sets.items() if info.role == role]
    if kind.stage == "sft" and not found:
        raise UserError("config.pack.stages: 'sft' packs downstream sets, and the corpus has none (a source with role 'downstream')")
    return found


def _titles_hash(corpus: Corpus, name: str) -> str:
    """Of the titles of a whole catalogue, in order, items without a training interaction included."""
    return artefact.fingerprint([corpus.items.title[item] for item in corpus.catalogue(name).tolist()])


def _sources(corpus: Corpus, spec: PackSpec, kind: RowsKind, sets: Sequence[str]) -> dict[str, RowSource]:
    """The sources of behaviour that rows of a kind are made from, by the name of their split."""
    made = partial(Behaviour, corpus=corpus, window=spec.window, users=kind.users, seed=spec.seed)
    if kind.stage == "sft":
        downstream = [name for name in sets if corpus.sets[name].role == "downstream"]
        return {name: made(split="sft" if name in downstream else "domain", name=name, scope=name) for name in sets}
    taken = {MIXED: "the all-domain sequences", **dict.fromkeys(OPTIONAL_SOURCES, "an optional row source")}
    taken |= {plain_text.SPLIT: "the general text"} if spec.text else {}
    for name in taken.keys() & set(sets):
        raise UserError(f"config.corpus.sources: a domain may not be called {name!r}; that is the name of {taken[name]}")
    domains: dict[str, RowSource] = {name: made(split="domain", name=name, scope=name) for name in sets}
    return domains | ({MIXED: made(split="mixed", name="all", scope=None)} if len(sets) > 1 else {})


def _needed_items(corpus: Corpus, sets: Sequence[str], optional: Sequence[str]) -> np.ndarray:
    """The items whose titles can occur in rows of these sets."""
    if {"titles", "related"}.isdisjoint(optional):
        return _trained_items(corpus, sets)
    return np.flatnonzero(np.isin(corpus.items.domain, [info.domain_id for info in corpus.sets.values()]))


def _trained_items(corpus: Corpus, sets: Sequence[str]) -> np.ndarray:
    """The items that can occur in the training sequences of these sets: those with an interaction in the training period."""
    domains = [corpus.sets[name].domain_id for name in sets]
    return np.flatnonzero(np.isin(corpus.items.domain, domains) & (corpus.items.train_count > 0))


def _given_tokenizer(config: Config, workdir: Path, kind: RowsKind) -> Path | None:
    """The directory of the tokenizer to copy; None where one is trained. Fine-tuning takes the one that pre-training was trained with."""
    if config.text.source != TRAIN:
        return adapter.tokenizer_directory(hub.locate(config.text.source))
    if kind.stage == "cpt" or not any(one.stage == "cpt" for one in config.rows_kinds):
        return None
    artefact.read_json(rows_directory(workdir) / artefact.MANIFEST, "pack")
    return tokenizer_directory(workdir)


def _tokenizer(text: TextSpec, corpus: Corpus, given: Path | None, directory: Path, sets: Sequence[str]) -> tokenizer.Tokenizer:
    if given is not None:
        tokenizer_files.copy(given, directory)
        return tokenizer.load(directory)
    # Only what pre-training sees: titles of its domains, as often as they occur there (downstream titles stay unseen). A corpus without
    # domains has nothing but the sets to fine-tune on.
    needed = _trained_items(corpus, [name for name, info in corpus.sets.items() if info.role == "pretrain"] or sets)
    counts = np.zeros(len(corpus.items), np.int64)
    counts[needed] = corpus.items.train_count[needed]
    headers = [text.template.header.format(scope=scope) for scope in [*corpus.domains, text.template.all_domains]]
    titles = [title + text.template.end_of_item for title in corpus.items.title]
    say(f"pack: training a byte-level BPE of {text.vocab_size} on {np.count_nonzero(counts)} titles")
    often = int(counts.sum()) // 100 + 2  # a header begins every document, so its words should be few tokens
    return tokenizer.train(titles + headers, [*counts.tolist(), *[often] * len(headers)], text.vocab_size, directory, text.across_words)


def _write_splits(
    directory: Path,
    corpus: Corpus,
    catalogue: Catalogue,
    template: Template,
    spec: PackSpec,
    kind: RowsKind,
    sets: Sequence[str],
    tokens: tokenizer.Tokenizer,
    optional: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Write all splits and the dataset's description; returns what the manifest says of each split."""
    sources = _sources(corpus, spec, kind, sets)
    asked = {name: optional_source(name, corpus, spec.seed, spec.window) for name in optional}
    general = PlainText(spec.text) if spec.text and kind.stage == "cpt" else None
    scopes = list(dict.fromkeys(scope for source in (*sources.values(), *asked.values()) for scope in source.scopes))
    headers = Headers(
        tokens=[template.start if scope == BARE else template.header(scope) for scope in scopes],
        number={scope: number for number, scope in enumerate(scopes)},
    )
    table = PieceTable.of(*documents.piece_table(catalogue, headers.tokens)).save(directory / "pieces")
    loss_below = len(catalogue) + (len(scopes) if template.spec.loss_on_header else 0)
    rng = np.random.default_rng(spec.seed)
    statistics: dict[str, dict[str, Any]] = {}
    workers = used_workers(spec.workers, cores(), int(corpus.items.train_count.sum()))
    with ShardWriter(workers) as writer:
        made = partial(SplitPacker, directory=directory, row_length=spec.row_length, writer=writer, last_only=kind.targets == "last")
        for name, source in sources.items():
            packer = made(split=name, rng=rng, n_items=len(catalogue), loss_below=loss_below, table=table)
            statistics[name] = _pack_sequences(packer, source, catalogue, headers, prefixes=kind.targets == "last")
        if general is not None:
            packer = made(split=plain_text.SPLIT, rng=rng, n_items=0, loss_below=np.iinfo(np.int32).max)
            statistics[plain_text.SPLIT] = _pack_text(packer, general, tokens)
        for name, source in asked.items():  # each with a generator of its own: the splits above do not depend on what is asked
            packer = made(split=name, rng=source_generator(spec.seed, name), n_items=len(catalogue), loss_below=loss_below, table=table)
            statistics[name] = _pack_sequences(packer, source, catalogue, headers)
        rows.features(spec.row_length)  # a quarter of a second to import TFDS, while the workers still write
    rows.write_info(directory, spec.row_length, {name: writer.written.get(name, []) for name in statistics})
    shutil.rmtree(table)
    return statistics


@dataclass(frozen=True, kw_only=True)
class Headers:
    """The tokens of all headers, and which of them each scope has."""

    tokens: list[np.ndarray]
    number: Mapping[Scope, int]


def _pack_sequences(
    packer: SplitPacker, source: RowSource, catalogue: Catalogue, headers: Headers, prefixes: bool = False
) -> dict[str, Any]:
    """Pack one source of sequences, window by window. prefixes: a document for every item but the first of a sequence."""
    to_documents = documents.prefixes if prefixes else documents.cut
    progress = Progress(f"pack {packer.split}", source.total, source.unit)
    items = dropped = 0
    for window in source.windows():
        n = len(window.offsets) - 1
        header_of = np.full(n, headers.number[window.scope])
        cut = to_documents(window.items, window.offsets, header_of, headers.tokens, catalogue, packer.row_length)
        packer.add(cut.pieces, cut.offsets, cut.lengths)
        items, dropped = items + (len(cut) if prefixes else len(window.items) - cut.dropped_items), dropped + cut.dropped_items
        progress.advance(n)
    packer.finish()
    return {**packer.statistics(), "items": items, "items_too_long": dropped, **source.counts}


def _pack_text(packer: SplitPacker, general: PlainText, tokens: tokenizer.Tokenizer) -> dict[str, Any]:
    """Pack general text, cut into documents that fit a row."""
    limit, left_out = general.spec.max_tokens, 0
    for flat, offsets in general.windows(tokens):
        bounds = plain_text.cut(offsets, packer.row_length)
        if limit is not None:
            bounds = bounds[: max(2, int(np.searchsorted(bounds, limit - packer.n_tokens, side="right")))]
        left_out += int(offsets[-1] - bounds[-1])
        n = len(bounds) - 1
        packer.add(np.arange(n), np.arange(n + 1), np.diff(bounds), PieceTable.of(flat[: bounds[-1]], bounds))
        say(f"pack {packer.split}: {packer.n_tokens} tokens")
    packer.finish()
    return {**packer.statistics(), **dataclasses.asdict(general.counts), "tokens_left_out": left_out}
