"""Job `pack`: corpus + tokenizer + template -> packed rows of fixed length, one split a source.

Rows of two stages, each an artefact of its own: `cpt` from the pre-training domains, their mixed sequences and general text; `sft` from the
training sequences of the downstream sets, in the same template and with the same tokenizer.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax import artefact
from cprec_jax.config.pack import PackSpec, Stage
from cprec_jax.config.root import Config
from cprec_jax.config.text import TRAIN, TextSpec
from cprec_jax.corpus import Corpus, TrainSplit
from cprec_jax.data import rows
from cprec_jax.data.shards import PieceTable, ShardWriter
from cprec_jax.errors import UserError
from cprec_jax.hf.hub import locate
from cprec_jax.progress import Progress, say
from cprec_jax.text import documents, new_tokens, plain_text, tokenizer, tokenizer_files
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.packer import SplitPacker, cores, used_workers
from cprec_jax.text.plain_text import PlainText
from cprec_jax.text.template import Template
from cprec_jax.text.unknown_titles import titles_unknown
from cprec_jax.workdir import corpus_directory, rows_directory, tokenizer_directory

ROLE = {"cpt": "pretrain", "sft": "downstream"}  # the sets whose training sequences a stage packs
MIXED = "mixed"


def pack(config: Config, workdir: Path, stage: Stage, made_from: Mapping[str, Any]) -> None:
    """Write WORKDIR/rows/STAGE: the TFDS dataset, the tokenizer it was made with, and manifest.json, which says what it was `made_from`."""
    text, pack_spec = config.text, config.pack
    corpus = Corpus.open(corpus_directory(workdir))
    with artefact.new_directory(rows_directory(workdir, stage)) as directory:
        needed = _trained_items(corpus, stage)
        tokens = _tokenizer(text, corpus, _given_tokenizer(text, workdir, stage), directory / "tokenizer")
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
        statistics = _write_splits(directory, corpus, catalogue, template, pack_spec, stage, tokens)
        if not any(entry["rows"] for entry in statistics.values()):
            raise UserError(f"{corpus.path}: no {ROLE[stage]} sequence is left to pack; see `rejected` in its manifest.json")
        shards = {p.name: artefact.file_sha256(p) for p in sorted(directory.glob("*.array_record*"))}
        facts = {
            "stage": stage,
            "rows_hash": artefact.fingerprint(shards),
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


def _sources(corpus: Corpus, spec: PackSpec, stage: Stage) -> list[str]:
    sets = [name for name, info in corpus.sets.items() if info.role == ROLE[stage]]
    if stage == "sft":
        if not sets:
            raise UserError("config.pack.stages: 'sft' packs downstream sets, and the corpus has none (a source with role 'downstream')")
        return sets
    taken = {MIXED: "the all-domain sequences"} | ({plain_text.SPLIT: "the general text"} if spec.text else {})
    for name in taken.keys() & set(sets):
        raise UserError(f"config.corpus.sources: a domain may not be called {name!r}; that is the name of {taken[name]}")
    return [*sets, MIXED] if len(sets) > 1 else sets


def _trained_items(corpus: Corpus, stage: Stage = "cpt") -> np.ndarray:
    """The items that can occur in a stage's sequences: those of its domains with an interaction in the training period."""
    domains = [info.domain_id for info in corpus.sets.values() if info.role == ROLE[stage]]
    return np.flatnonzero(np.isin(corpus.items.domain, domains) & (corpus.items.train_count > 0))


def _given_tokenizer(text: TextSpec, workdir: Path, stage: Stage) -> Path | None:
    """The directory of the tokenizer to copy; None where one is trained. Fine-tuning takes the one that pre-training was trained with."""
    if text.source != TRAIN:
        return locate(text.source)
    if stage == "cpt":
        return None
    artefact.read_json(rows_directory(workdir) / artefact.MANIFEST, "pack --config.pack.stages=('cpt','sft')")
    return tokenizer_directory(workdir)


def _tokenizer(text: TextSpec, corpus: Corpus, given: Path | None, directory: Path) -> tokenizer.Tokenizer:
    if given is not None:
        tokenizer_files.copy(given, directory)
        return tokenizer.load(directory)
    # Only what pre-training sees: titles of its domains, as often as they occur there (downstream titles stay unseen).
    needed = _trained_items(corpus)
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
    stage: Stage,
    tokens: tokenizer.Tokenizer,
) -> dict[str, dict[str, Any]]:
    """Write all splits and the dataset's description; returns what the manifest says of each split."""
    sources = _sources(corpus, spec, stage)
    general = PlainText(spec.text) if spec.text and stage == "cpt" else None
    kinds: list[TrainSplit] = ["sft" if stage == "sft" else "mixed" if name == MIXED else "domain" for name in sources]
    headers = [template.header(None if kind == "mixed" else name) for name, kind in zip(sources, kinds, strict=True)]
    table = PieceTable.of(*documents.piece_table(catalogue, headers)).save(directory / "pieces")
    rng = np.random.default_rng(spec.seed)
    statistics: dict[str, dict[str, Any]] = {}
    workers = used_workers(spec.workers, cores(), int(corpus.items.train_count.sum()))
    with ShardWriter(workers) as writer:
        for number, name in enumerate(sources):
            packer = SplitPacker(
                split=name,
                directory=directory,
                row_length=spec.row_length,
                writer=writer,
                rng=rng,
                headers_from=len(catalogue) + (len(headers) if template.spec.loss_on_header else 0),
                table=table,
            )
            statistics[name] = _pack_sequences(packer, corpus, kinds[number], catalogue, headers, number, spec.window)
        if general is not None:
            packer = SplitPacker(
                split=plain_text.SPLIT,
                directory=directory,
                row_length=spec.row_length,
                writer=writer,
                rng=rng,
                headers_from=np.iinfo(np.int32).max,
            )
            statistics[plain_text.SPLIT] = _pack_text(packer, general, tokens)
        rows.features(spec.row_length)  # a quarter of a second to import TFDS, while the workers still write
    rows.write_info(directory, spec.row_length, {name: writer.written.get(name, []) for name in statistics})
    shutil.rmtree(table)
    return statistics


def _pack_sequences(
    packer: SplitPacker, corpus: Corpus, kind: TrainSplit, catalogue: Catalogue, headers: list[np.ndarray], number: int, window: int
) -> dict[str, Any]:
    """Pack one source of behavioural sequences, whose header is `headers[number]`, window by window."""
    file = "all" if kind == "mixed" else packer.split
    progress = Progress(f"pack {packer.split}", corpus.n_sequences(kind, file), "users")
    items = dropped = 0
    for flat, offsets in corpus.windows(kind, file, window):
        header_of = np.full(len(offsets) - 1, number)
        cut = documents.cut(flat, offsets, header_of, headers, catalogue, packer.row_length)
        packer.add(cut.pieces, cut.offsets, cut.lengths)
        items, dropped = items + len(flat) - cut.dropped_items, dropped + cut.dropped_items
        progress.advance(len(offsets) - 1)
    packer.finish()
    return {**packer.statistics(), "items": items, "items_too_long": dropped}


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
