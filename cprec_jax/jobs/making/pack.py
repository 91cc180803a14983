"""Job `pack`: corpus + tokenizer + template -> packed rows of fixed length, one split per source.

Rows of several kinds, each an artefact of its own. `cpt`: from the pre-training domains, their mixed sequences, general
text and the optional sources that a mixture asks for. `sft`: from the training sequences of the sets that runs are
fine-tuned on, in the same template and with the same tokenizer.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax import artefact
from cprec_jax.config.root import Config
from cprec_jax.config.rows import RowsKind
from cprec_jax.config.text import TRAIN, TextSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.hf import adapter, hub
from cprec_jax.progress import say
from cprec_jax.rows import dataset as rows
from cprec_jax.rows import saved_catalogue
from cprec_jax.rows.write_splits import write_splits
from cprec_jax.text import new_tokens, tokenizer, tokenizer_files
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.template import Template
from cprec_jax.text.unknown_titles import titles_unknown
from cprec_jax.workdir import corpus_directory, rows_directory, tokenizer_directory


def pack(config: Config, workdir: Path, kind: RowsKind, made_from: Mapping[str, Any]) -> None:
    """Write WORKDIR/rows/KIND: the TFDS dataset, the tokenizer it was made with, and manifest.json, which says what it
    was `made_from`."""
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
        catalogue = saved_catalogue.build_and_save(
            directory, tokens, corpus.items.title, text.template.end_of_item, needed
        )
        tokens_per_item = float(catalogue.lengths[needed].mean()) if len(needed) else 0.0
        template = Template(text.template, tokens)
        say(
            f"pack {stage}: {len(needed)} of {len(catalogue)} items, {tokens_per_item:.2f} tokens per item, "
            f"vocabulary {tokens.size}, "
            f"{len(added)} of it new"
        )
        if losses := tokenizer_losses(catalogue, needed, tokens, text.template.end_of_item):
            say(f"warning: pack {stage}: the tokenizer loses parts of titles: {losses}")
        statistics = write_splits(directory, corpus, catalogue, template, pack_spec, kind, sets, tokens, optional)
        if not any(entry["rows"] for name, entry in statistics.items() if name not in optional):
            what = "pretrain" if kind.stage == "cpt" else f"training ({', '.join(sets)})"
            raise UserError(f"{corpus.path}: no {what} sequence is left to pack; see `rejected` in its manifest.json")
        facts = {
            "stage": kind.stage,
            **_hashes(directory, optional if kind.stage == "cpt" else sets, optional),
            "catalogue_hashes": {name: _titles_hash(corpus, name) for name in sets},
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
        }
        artefact.write_manifest(directory, made_from, facts)
    for name, row in statistics.items():
        say(
            f"pack {stage}: {name}: {row['documents']} documents, {row['tokens']} tokens in {row['rows']} rows, "
            f"{row['fill']:.1%} full"
        )


def _hashes(directory: Path, apart: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
    """The hashes of what was written, for the manifest.

    Args:
      apart: the sources whose shards get a hash of their own.
      optional: those of them that do not count in `rows_hash`.
    """
    shards = {path.name: artefact.file_sha256(path) for path in sorted(directory.glob("*.array_record*"))}
    of_source = {
        name: {shard: value for shard, value in shards.items() if shard.startswith(rows.shard_prefix(name))}
        for name in apart
    }
    always = {shard: value for shard, value in shards.items() if not any(shard in of_source[name] for name in optional)}
    of_tokenizer = tokenizer_files.input_files(directory / "tokenizer")
    return {
        "rows_hash": artefact.fingerprint(always),
        "source_hashes": {name: artefact.fingerprint(hashes) for name, hashes in of_source.items()},
        "tokenizer_hash": artefact.fingerprint({path.name: artefact.file_sha256(path) for path in of_tokenizer}),
        "shards": shards,
    }


def tokenizer_losses(catalogue: Catalogue, items: np.ndarray, tokens: tokenizer.Tokenizer, end_of_item: str) -> str:
    """`Catalogue.losses`, and before it the share of the items' titles that are nothing but the unknown token."""
    n_unknown = titles_unknown(catalogue, items, tokens, end_of_item)
    unknown = f"{n_unknown / max(len(items), 1):.2%} of the titles ({n_unknown}) are nothing but the unknown token"
    return ", ".join(part for part in (unknown if n_unknown else "", catalogue.losses) if part)


def sets_of(corpus: Corpus, kind: RowsKind, named: Sequence[str]) -> list[str]:
    """The sets whose training sequences rows of a kind hold: of pre-training all its domains, of fine-tuning those that
    are named, or all downstream sets."""
    if kind.stage == "sft" and named:
        return [corpus.set_info(name).name for name in named]
    role = "pretrain" if kind.stage == "cpt" else "downstream"
    names = [name for name, info in corpus.sets.items() if info.role == role]
    if kind.stage == "sft" and not names:
        raise UserError(
            "config.pack.stages: 'sft' packs downstream sets, and the corpus has none (a source with role 'downstream')"
        )
    return names


def _titles_hash(corpus: Corpus, name: str) -> str:
    """Of the titles of a whole catalogue, in order, items without a training interaction included."""
    return artefact.fingerprint([corpus.items.title[item] for item in corpus.catalogue(name).tolist()])


def _needed_items(corpus: Corpus, sets: Sequence[str], optional: Sequence[str]) -> np.ndarray:
    """The items whose titles can occur in rows of these sets."""
    if {"titles", "related"}.isdisjoint(optional):
        return _trained_items(corpus, sets)
    return np.flatnonzero(np.isin(corpus.items.domain, [info.domain_id for info in corpus.sets.values()]))


def _trained_items(corpus: Corpus, sets: Sequence[str]) -> np.ndarray:
    """The items that can occur in the training sequences of these sets: those with an interaction in the training
    period."""
    domains = [corpus.sets[name].domain_id for name in sets]
    return np.flatnonzero(np.isin(corpus.items.domain, domains) & (corpus.items.train_count > 0))


def _given_tokenizer(config: Config, workdir: Path, kind: RowsKind) -> Path | None:
    """The directory of the tokenizer to copy; None where one is trained. Fine-tuning takes the one that pre-training
    was trained with."""
    if config.text.source != TRAIN:
        return adapter.tokenizer_directory(hub.locate(config.text.source))
    if kind.stage == "cpt" or not any(packed.stage == "cpt" for packed in config.rows_kinds):
        return None
    artefact.read_json(rows_directory(workdir) / artefact.MANIFEST, "pack")
    return tokenizer_directory(workdir)


def _tokenizer(
    text: TextSpec, corpus: Corpus, given: Path | None, directory: Path, sets: Sequence[str]
) -> tokenizer.Tokenizer:
    if given is not None:
        tokenizer_files.copy(given, directory)
        return tokenizer.load(directory)
    # Only what pre-training sees: titles of its domains, as often as they occur there (downstream titles stay unseen).
    # A corpus without domains has nothing but the sets to fine-tune on.
    needed = _trained_items(corpus, [name for name, info in corpus.sets.items() if info.role == "pretrain"] or sets)
    counts = np.zeros(len(corpus.items), np.int64)
    counts[needed] = corpus.items.train_count[needed]
    headers = [text.template.header.format(scope=scope) for scope in [*corpus.domains, text.template.all_domains]]
    titles = [title + text.template.end_of_item for title in corpus.items.title]
    say(f"pack: training a byte-level BPE of {text.vocab_size} on {np.count_nonzero(counts)} titles")
    often = int(counts.sum()) // 100 + 2  # a header begins every document, so its words should be few tokens
    return tokenizer.train(
        titles + headers, [*counts.tolist(), *[often] * len(headers)], text.vocab_size, directory, text.across_words
    )
