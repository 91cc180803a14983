"""Job `pack`: corpus + tokenizer + template -> packed rows of fixed length, one split a source."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax import artefact
from cprec_jax.corpus import Corpus
from cprec_jax.data import rows
from cprec_jax.errors import UserError
from cprec_jax.hf.hub import locate
from cprec_jax.progress import Progress, say
from cprec_jax.spec import build
from cprec_jax.text import best_fit, documents, new_tokens, tokenizer
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.template import Template, TemplateSpec

MIXED = "mixed"
ROWS_A_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """`config.text`: which tokenizer ("train", a Hugging Face directory, or a hub id `owner/name[@revision]`) and which words.

    new_tokens: texts that become one token each, for example markers of domains; `{scope}` in one stands for every domain and for the
    mixed sequences, as in the template's header. A base model gets rows for them (`hf/vocabulary.py`).
    """

    tokenizer: str = "train"
    vocab_size: int = 8192
    across_words: bool = True
    new_tokens: tuple[str, ...] = ()
    template: TemplateSpec = field(default_factory=TemplateSpec)

    def __post_init__(self) -> None:
        if any(not text.strip() for text in self.new_tokens):
            raise ValueError(f"new_tokens {self.new_tokens!r} holds an empty text")


@dataclass(frozen=True, kw_only=True)
class PackSpec:
    """`config.pack`: tokens a row, and the seed of the pairing of documents."""

    row_length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.row_length < 32 or self.row_length % 8:
            raise ValueError(f"row_length {self.row_length} must be a multiple of 8, at least 32")


def specs(config: Mapping[str, Any]) -> tuple[TextSpec, PackSpec]:
    return build(TextSpec, config.get("text", {}), "config.text"), build(PackSpec, config.get("pack", {}), "config.pack")


def pack_inputs(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """What the rows are made from: the text and pack sections, the corpus, the tokenizer's bytes."""
    text, _ = specs(config)
    files = {}
    if text.tokenizer != "train":
        directory = locate(text.tokenizer)
        files = {f: artefact.file_sha256(directory / f) for f in tokenizer.TOKENIZER_FILES if (directory / f).exists()}
    corpus_hash = artefact.read_json(workdir / "corpus" / artefact.MANIFEST, "prepare")["corpus_hash"]
    return {"job": "pack", "text": config.get("text", {}), "pack": config.get("pack", {}), "corpus": corpus_hash, "tokenizer": files}


def pack(config: Mapping[str, Any], workdir: Path) -> None:
    """Write WORKDIR/rows/cpt: the TFDS dataset, the tokenizer it was made with, and manifest.json."""
    text, pack_spec = specs(config)
    inputs = pack_inputs(config, workdir)
    corpus = Corpus.open(workdir / "corpus")
    with artefact.new_directory(workdir / "rows" / "cpt") as directory:
        tokens = _tokenizer(text, corpus, directory / "tokenizer")
        base_vocab_size = tokens.size
        tokens, added = new_tokens.add(
            directory / "tokenizer", new_tokens.texts(text.new_tokens, [*corpus.domains, text.template.all_domains])
        )
        catalogue = Catalogue.build(tokens, corpus.items.title, text.template.end_of_item)
        template = Template(text.template, tokens)
        say(
            f"pack: {len(catalogue)} items, {catalogue.lengths.mean():.2f} tokens an item, vocabulary {tokens.size}, {len(added)} of it new"
        )
        statistics: dict[str, dict[str, Any]] = {}
        rng = np.random.default_rng(pack_spec.seed)
        splits = {
            name: _rows_of(name, corpus, catalogue, template, pack_spec.row_length, text.template.loss_on_header, rng, statistics)
            for name in _sources(corpus)
        }
        counts = rows.write(directory, pack_spec.row_length, splits)
        assert all(counts[name] == statistics[name]["rows"] for name in counts)
        if not sum(counts.values()):
            raise UserError(f"{workdir / 'corpus'}: no pre-training sequence is left to pack; see `rejected` in its manifest.json")
        shards = {p.name: artefact.file_sha256(p) for p in sorted(directory.glob("*.array_record*"))}
        manifest = {
            "version": 1,
            "inputs_hash": artefact.fingerprint(inputs),
            "rows_hash": artefact.fingerprint(shards),
            "corpus_hash": corpus.hash,
            "row_length": pack_spec.row_length,
            "vocab_size": tokens.size,
            "base_vocab_size": base_vocab_size,
            "new_tokens": added,
            "unknown_tokens": catalogue.unknown_tokens,
            "tokens_per_item": float(catalogue.lengths.mean()),
            "template": dataclasses.asdict(text.template),
            "splits": statistics,
            "shards": shards,
        }
        artefact.write_json(directory / artefact.MANIFEST, manifest)
    for name, row in statistics.items():
        say(f"pack: {name}: {row['documents']} documents, {row['tokens']} tokens in {row['rows']} rows, {row['fill']:.1%} full")


def _sources(corpus: Corpus) -> list[str]:
    pretrain = [name for name, info in corpus.sets.items() if info.role == "pretrain"]
    if MIXED in pretrain:
        raise UserError(f"config.corpus.sources: a domain may not be called {MIXED!r}; that is the name of the all-domain sequences")
    return [*pretrain, MIXED] if len(pretrain) > 1 else pretrain


def _tokenizer(text: TextSpec, corpus: Corpus, directory: Path) -> tokenizer.Tokenizer:
    if text.tokenizer != "train":
        source = locate(text.tokenizer)
        tokenizer.copy_files(source, directory)
        return tokenizer.load(source)
    # Only what pre-training sees: titles of its domains, as often as they occur there (downstream titles stay unseen).
    domains = [info.domain_id for info in corpus.sets.values() if info.role == "pretrain"]
    counts = np.where(np.isin(corpus.items.domain, domains), corpus.items.train_count, 0)
    headers = [text.template.header.format(scope=scope) for scope in [*corpus.domains, text.template.all_domains]]
    titles = [title + text.template.end_of_item for title in corpus.items.title]
    say(f"pack: training a byte-level BPE of {text.vocab_size} on {np.count_nonzero(counts)} titles")
    often = int(counts.sum()) // 100 + 2  # a header begins every document, so its words should be few tokens
    return tokenizer.train(titles + headers, [*counts.tolist(), *[often] * len(headers)], text.vocab_size, directory, text.across_words)


def _rows_of(
    name: str,
    corpus: Corpus,
    catalogue: Catalogue,
    template: Template,
    row_length: int,
    loss_on_header: bool,
    rng: np.random.Generator,
    statistics: dict[str, dict[str, Any]],
) -> Iterator[dict[str, np.ndarray]]:
    sequences = corpus.sequences("mixed", "all") if name == MIXED else corpus.sequences("domain", name)
    header = template.header(None if name == MIXED else name)
    header_of = np.zeros(len(sequences.user), np.int64)
    cut = documents.cut(sequences.items, sequences.offsets, header_of, [header], catalogue, row_length)
    row_of, n_rows = best_fit.best_fit(cut.lengths, row_length, rng)
    tokens_total = int(cut.lengths.sum())
    statistics[name] = {
        "rows": n_rows,
        "documents": len(cut),
        "tokens": tokens_total,
        "items": len(sequences.items) - cut.dropped_items,
        "items_too_long": cut.dropped_items,
        "fill": tokens_total / max(n_rows * row_length, 1),
    }
    order = np.argsort(row_of, kind="stable")
    bounds = np.searchsorted(row_of[order], np.arange(n_rows + 1))
    progress = Progress(f"pack {name}", n_rows, "rows")
    for first in range(0, n_rows, ROWS_A_CHUNK):
        last = min(first + ROWS_A_CHUNK, n_rows)
        chosen = order[bounds[first] : bounds[last]]
        tokens, is_item = cut.tokens(chosen)
        lengths = cut.lengths[chosen]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        for row in range(first, last):
            a, b = bounds[row] - bounds[first], bounds[row + 1] - bounds[first]
            used = slice(ends[a], ends[b])
            size = int(ends[b] - ends[a])
            padded = np.zeros(row_length, np.int32)
            padded[:size] = tokens[used]
            loss = np.zeros(row_length, np.uint8)
            loss[:size] = 1 if loss_on_header else is_item[used]
            yield {"tokens": padded, "lengths": lengths[a:b].astype(np.int32), "loss": loss}
        progress.advance(last - first)
