"""Sequences and plain text -> the packed splits of a dataset, and its description."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax.config.pack import PackSpec
from cprec_jax.config.rows import RowsKind
from cprec_jax.config.train import OPTIONAL_SOURCES
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.progress import Progress, say
from cprec_jax.rows import dataset as rows
from cprec_jax.rows.packer import SplitPacker, cores, used_workers
from cprec_jax.rows.row_sources import BARE, Behaviour, RowSource, Scope, optional_source, source_generator
from cprec_jax.rows.shards import PieceTable, ShardWriter
from cprec_jax.text import documents, plain_text, tokenizer
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.plain_text import PlainText
from cprec_jax.text.template import Template

MIXED = "mixed"


def write_splits(
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
    optional_sources = {name: optional_source(name, corpus, spec.seed, spec.window) for name in optional}
    general = PlainText(spec.text) if spec.text and kind.stage == "cpt" else None
    scopes = list(
        dict.fromkeys(scope for source in (*sources.values(), *optional_sources.values()) for scope in source.scopes)
    )
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
        make_packer = partial(
            SplitPacker,
            directory=directory,
            row_length=spec.row_length,
            writer=writer,
            last_only=kind.targets == "last",
        )
        for name, source in sources.items():
            packer = make_packer(split=name, rng=rng, n_items=len(catalogue), loss_below=loss_below, table=table)
            statistics[name] = _pack_sequences(packer, source, catalogue, headers, prefixes=kind.targets == "last")
        if general is not None:
            packer = make_packer(split=plain_text.SPLIT, rng=rng, n_items=0, loss_below=np.iinfo(np.int32).max)
            statistics[plain_text.SPLIT] = _pack_text(packer, general, tokens)
        # Each with a generator of its own: the splits above do not depend on which of these there are.
        for name, source in optional_sources.items():
            packer = make_packer(
                split=name,
                rng=source_generator(spec.seed, name),
                n_items=len(catalogue),
                loss_below=loss_below,
                table=table,
            )
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
    """Pack one source of sequences, window by window. prefixes: a document for every item but the first of a
    sequence."""
    to_documents = documents.prefixes if prefixes else documents.cut
    progress = Progress(f"pack {packer.split}", source.total, source.unit)
    items = dropped = 0
    for window in source.windows():
        n = len(window.offsets) - 1
        header_of = np.full(n, headers.number[window.scope])
        cut = to_documents(window.items, window.offsets, header_of, headers.tokens, catalogue, packer.row_length)
        packer.add(cut.pieces, cut.offsets, cut.lengths)
        items, dropped = (
            items + (len(cut) if prefixes else len(window.items) - cut.dropped_items),
            dropped + cut.dropped_items,
        )
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


def _sources(corpus: Corpus, spec: PackSpec, kind: RowsKind, sets: Sequence[str]) -> dict[str, RowSource]:
    """The sources of behaviour that rows of a kind are made from, by the name of their split."""
    behaviour = partial(Behaviour, corpus=corpus, window=spec.window, users=kind.users, seed=spec.seed)
    if kind.stage == "sft":
        downstream = [name for name in sets if corpus.sets[name].role == "downstream"]
        return {
            name: behaviour(split="sft" if name in downstream else "domain", name=name, scope=name) for name in sets
        }
    taken = {MIXED: "the all-domain sequences", **dict.fromkeys(OPTIONAL_SOURCES, "an optional row source")}
    taken |= {plain_text.SPLIT: "the general text"} if spec.text else {}
    for name in taken.keys() & set(sets):
        raise UserError(
            f"config.corpus.sources: a domain may not be called {name!r}; that is the name of {taken[name]}"
        )
    domains: dict[str, RowSource] = {name: behaviour(split="domain", name=name, scope=name) for name in sets}
    return domains | ({MIXED: behaviour(split="mixed", name="all", scope=None)} if len(sets) > 1 else {})
