"""Job `pack`: corpus + tokenizer + template -> packed rows of fixed length, one split a source.

Rows of two stages, each an artefact of its own: `cpt` from the pre-training domains, their mixed sequences and general text; `sft` from the
training sequences of the downstream sets, in the same template and with the same tokenizer.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from cprec_jax import artefact
from cprec_jax.corpus import Corpus, TrainSplit
from cprec_jax.data import rows
from cprec_jax.data.shards import PieceTable, ShardWriter
from cprec_jax.errors import UserError
from cprec_jax.hf.hub import locate
from cprec_jax.progress import Progress, say
from cprec_jax.spec import build
from cprec_jax.text import documents, new_tokens, plain_text, tokenizer, tokenizer_files
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.packer import SplitPacker, cores, used_workers
from cprec_jax.text.plain_text import PlainText, PlainTextSpec
from cprec_jax.text.template import Template, TemplateSpec
from cprec_jax.text.unknown_titles import titles_unknown

Stage = Literal["cpt", "sft"]
ROLE = {"cpt": "pretrain", "sft": "downstream"}  # the sets whose training sequences a stage packs
MIXED = "mixed"
NO_INPUT = ("workers", "stages")  # keys of config.pack that change no row


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
    """`config.pack`: tokens a row, the seed of the pairing of documents, and the stages to make rows for ("cpt", "sft"; in this order).

    window: interactions that are held and packed at a time; memory grows with it (about 60 bytes each), rows differ only where a source
    has more. workers: processes that write rows (None: one a core); rows do not depend on it. text: general text for replay.
    """

    row_length: int = 512
    seed: int = 0
    window: int = 8_000_000
    workers: int | None = None
    text: PlainTextSpec | None = None
    stages: tuple[Stage, ...] = ("cpt",)

    def __post_init__(self) -> None:
        if not self.stages or list(self.stages) != [stage for stage in get_args(Stage) if stage in self.stages]:
            raise ValueError(f"stages {self.stages!r}: give 'cpt', 'sft' or both, each once and in this order")
        if self.window < 1 or (self.workers is not None and self.workers < 1):
            raise ValueError(f"window {self.window} and workers {self.workers} must be at least 1")
        if self.row_length < 32 or self.row_length % 8:
            raise ValueError(f"row_length {self.row_length} must be a multiple of 8, at least 32")


def specs(config: Mapping[str, Any]) -> tuple[TextSpec, PackSpec]:
    return build(TextSpec, config.get("text", {}), "config.text"), build(PackSpec, config.get("pack", {}), "config.pack")


def stages(config: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages that a config asks rows for."""
    return specs(config)[1].stages


def pack_inputs(config: Mapping[str, Any], workdir: Path, stage: Stage = "cpt") -> dict[str, Any]:
    """What the rows of a stage are made from: the text and pack sections, the corpus, the tokenizer's bytes."""
    text, pack_spec = specs(config)
    files = {}
    source = _given_tokenizer(text, workdir, stage)
    if source is not None:
        files = {path.name: artefact.file_sha256(path) for path in tokenizer_files.input_files(source)}
    corpus_hash = artefact.read_json(workdir / "corpus" / artefact.MANIFEST, "prepare")["corpus_hash"]
    packing = {key: value for key, value in config.get("pack", {}).items() if key not in NO_INPUT}
    inputs = {"job": "pack", "text": config.get("text", {}), "pack": packing, "corpus": corpus_hash, "tokenizer": files}
    if stage != "cpt":
        inputs["stage"] = stage
    elif pack_spec.text is not None:
        inputs["general_text"] = [artefact.file_sha256(path) for path in plain_text.find_files(pack_spec.text)]
    return inputs


def pack(config: Mapping[str, Any], workdir: Path, only: Stage | None = None) -> None:
    """Write WORKDIR/rows/STAGE of every stage in `config.pack.stages`, or of `only` one."""
    for stage in stages(config) if only is None else (only,):
        _pack_stage(config, workdir, stage)


def _pack_stage(config: Mapping[str, Any], workdir: Path, stage: Stage) -> None:
    """Write WORKDIR/rows/STAGE: the TFDS dataset, the tokenizer it was made with, and manifest.json."""
    text, pack_spec = specs(config)
    inputs = pack_inputs(config, workdir, stage)
    corpus = Corpus.open(workdir / "corpus")
    with artefact.new_directory(workdir / "rows" / stage) as directory:
        needed = _trained_items(corpus, stage)
        tokens = _tokenizer(text, corpus, _given_tokenizer(text, workdir, stage), directory / "tokenizer")
        base_vocab_size = tokens.size
        named = new_tokens.texts(text.new_tokens, [*corpus.domains, text.template.all_domains])
        tokens, added = new_tokens.add(directory / "tokenizer", named)
        catalogue = Catalogue.build(tokens, corpus.items.title, text.template.end_of_item, needed)
        tokens_per_item = float(catalogue.lengths[needed].mean()) if len(needed) else 0.0
        template = Template(text.template, tokens)
        say(
            f"pack {stage}: {len(needed)} of {len(catalogue)} items, {tokens_per_item:.2f} tokens an item, vocabulary {tokens.size}, "
            f"{len(added)} of it new"
        )
        if losses := tokenizer_losses(catalogue, needed, tokens, text.template.end_of_item):
            say(f"warning: pack {stage}: the tokenizer loses parts of titles: {losses}")
        statistics = _write_splits(directory, corpus, catalogue, template, pack_spec, stage, tokens)
        if not any(entry["rows"] for entry in statistics.values()):
            raise UserError(f"{workdir / 'corpus'}: no {ROLE[stage]} sequence is left to pack; see `rejected` in its manifest.json")
        shards = {p.name: artefact.file_sha256(p) for p in sorted(directory.glob("*.array_record*"))}
        manifest = {
            "version": 1,
            "stage": stage,
            "inputs_hash": artefact.fingerprint(inputs),
            "rows_hash": artefact.fingerprint(shards),
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
            "file_sizes": artefact.file_sizes(directory),
        }
        artefact.write_json(directory / artefact.MANIFEST, manifest)
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
    if text.tokenizer != "train":
        return locate(text.tokenizer)
    if stage == "cpt":
        return None
    artefact.read_json(workdir / "rows" / "cpt" / artefact.MANIFEST, "pack --config.pack.stages=('cpt','sft')")
    return workdir / "rows" / "cpt" / "tokenizer"


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
