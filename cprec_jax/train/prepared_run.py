"""Everything about a run that is fixed before its first step: rows, shares, model, number of steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cprec_jax import artefact
from cprec_jax.config.lora import LoraSpec
from cprec_jax.config.model import ModelSpec
from cprec_jax.config.objective import ObjectiveSpec
from cprec_jax.config.root import Config
from cprec_jax.config.rows import Reads
from cprec_jax.config.train import TrainSpec
from cprec_jax.hf.hub import locate
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder
from cprec_jax.progress import say
from cprec_jax.rows import dataset as rows_on_disk
from cprec_jax.rows.mixture import blend, check_shares, proportions, row_limits, usable
from cprec_jax.text import tokenizer_files
from cprec_jax.train.description import decoder_config, make_decoder, read_description
from cprec_jax.train.lora import adapters_of
from cprec_jax.train.schedule import anneal_fraction
from cprec_jax.train.start import Start
from cprec_jax.workdir import corpus_directory, rows_directory

T = TypeVar("T")
PRETRAINING = Reads()


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """Everything that is fixed before the first step.

    directory: the run's.
    corpus: the directory of the corpus.
    rows: the directory of the rows. splits: those of them that it draws from.
    sets: those it is fine-tuned on; none for pre-training.
    shares, limits: of each split, its share of the batches and the rows used of it (absent: all), until annealing.
    anneal_shares, anneal_limits: those of the annealing phase.
    first: the step it starts at; above 0 where it goes on with another run.
    total_steps: the last step, counted from 0 also where `first` is above 0.
    start: the checkpoint of another run that it starts from.
    follows: whether it reads the rows that the other run would have read next; else its rows are a new stream.
    base_vocab_size, vocab_size: tokens of the tokenizer without and with new tokens.
    named_tokens: the texts of config.text.new_tokens.
    """

    directory: Path
    corpus: Path
    rows: Path
    splits: tuple[str, ...]
    sets: tuple[str, ...]
    loss: ObjectiveSpec
    lora: LoraSpec | None
    train: TrainSpec
    decoder: Decoder
    shares: Mapping[str, float]
    anneal_shares: Mapping[str, float]
    limits: Mapping[str, int]
    anneal_limits: Mapping[str, int]
    first: int
    total_steps: int
    start: Start | None
    follows: bool
    init_from: str | None
    base_vocab_size: int
    vocab_size: int
    named_tokens: tuple[str, ...]


def prepare_run(
    config: Config, workdir: Path, directory: Path, start: Start | None = None, reads: Reads = PRETRAINING
) -> PreparedRun:
    """Check the config against the rows, before anything is compiled or written.

    Args:
      config: of one run.
      directory: the run's.
      start: the checkpoint of another run that it starts from.
      reads: the rows that it reads.

    Raises `UserError` where they do not fit each other.
    """
    train_spec, model_spec = config.train_section, config.model
    rows = rows_directory(workdir, reads.kind.name)
    manifest = artefact.read_json(rows / artefact.MANIFEST, "pack")
    rows_on_disk.check_shards(rows, manifest["shards"])
    splits = _splits(train_spec, manifest["splits"], reads)
    sizes = {name: split["rows"] for name, split in splits.items()}
    anneal_mixture = train_spec.annealed_mixture
    for mixture, key in ((train_spec.mixture, "mixture"), (anneal_mixture, "anneal_mixture")):
        check_shares(mixture, sizes, f"config.train.{key}")
    shares, anneal_shares = proportions(train_spec.mixture, sizes), proportions(anneal_mixture, sizes)
    # A limit on a source's different tokens holds for both phases together, so both use the same rows: the limit comes
    # from the source's share of the whole run.
    over_all = blend(shares, anneal_shares, anneal_fraction(train_spec.schedule))
    limits = row_limits(train_spec.mixture, over_all, sizes, manifest["row_length"])
    first = start.step if start is not None and start.goes_on else 0
    total_steps = first + train_spec.total_steps(sum((sizes | limits).values()), manifest["row_length"])
    architecture = _architecture(model_spec, rows, manifest, start)
    name, lora = next(((name, run.lora) for name, run in config.runs.items()), ("", None))
    adapters = None if lora is None else adapters_of(lora, architecture, f"config.runs.{name}.lora")
    if model_spec.init_from is not None and start is None:
        _warn_of_another_tokenizer(model_spec.init_from, rows / "tokenizer")
    return PreparedRun(
        directory=directory,
        corpus=corpus_directory(workdir),
        rows=rows,
        splits=tuple(splits),
        sets=reads.sets,
        loss=next((run.loss for run in config.runs.values()), ObjectiveSpec()),
        lora=lora,
        train=train_spec,
        decoder=make_decoder(model_spec, architecture, manifest["row_length"], most_segments(splits), adapters),
        shares=shares,
        anneal_shares=anneal_shares,
        limits=limits,
        anneal_limits=row_limits(anneal_mixture, over_all, sizes, manifest["row_length"]),
        first=first,
        total_steps=total_steps,
        start=start,
        follows=first > 0 and _same_rows(start, shares, limits, manifest, train_spec, reads),
        init_from=model_spec.init_from,
        base_vocab_size=manifest.get("base_vocab_size", manifest["vocab_size"]),
        vocab_size=manifest["vocab_size"],
        named_tokens=tuple(manifest.get("named_tokens", ())),
    )


def _architecture(spec: ModelSpec, rows: Path, manifest: Mapping[str, Any], start: Start | None) -> DecoderConfig:
    """The architecture of the new model, or of the run that it starts from."""
    if start is None:
        token_ids = tokenizer_files.token_ids(rows / "tokenizer") if spec.init_from is not None else None
        vocab_size, named = manifest["vocab_size"], manifest.get("named_tokens", ())
        architecture = decoder_config(spec, vocab_size, manifest.get("base_vocab_size", vocab_size), token_ids, named)
    else:
        architecture = read_description(start.directory)["decoder"]
    if architecture.max_position_embeddings < manifest["row_length"]:
        say(
            f"warning: rows have {manifest['row_length']} tokens, more than the {architecture.max_position_embeddings} "
            "positions of the model"
        )
    return architecture


def _splits(spec: TrainSpec, splits: Mapping[str, T], reads: Reads) -> dict[str, T]:
    """The splits that a run draws from."""
    return {name: splits[name] for name in reads.sets} if reads.kind.stage == "sft" else usable(spec, splits)


def _same_rows(
    start: Start | None,
    shares: Mapping[str, float],
    limits: Mapping[str, int],
    manifest: Mapping[str, Any],
    spec: TrainSpec,
    reads: Reads,
) -> bool:
    """Whether the run that it goes on with reads its stable phase with the same shares, limits, seed and batch size."""
    assert start is not None
    start_train: TrainSpec = read_description(start.directory)["train"]
    sizes = {name: split["rows"] for name, split in _splits(start_train, manifest["splits"], reads).items()}
    their_shares = proportions(start_train.mixture, sizes)
    over_all = blend(
        their_shares, proportions(start_train.annealed_mixture, sizes), anneal_fraction(start_train.schedule)
    )
    their_limits = row_limits(start_train.mixture, over_all, sizes, manifest["row_length"])
    return (their_shares, their_limits, start_train.seed, start_train.global_batch) == (
        shares,
        limits,
        spec.seed,
        spec.global_batch,
    )


def _warn_of_another_tokenizer(init_from: str, tokenizer_dir: Path) -> None:
    from cprec_jax.hf import base

    if not base.extends(tokenizer_dir, locate(init_from)):
        say(
            f"warning: the rows were not made with the tokenizer of {init_from}, so its embeddings belong to other "
            "tokens; set config.text.tokenizer to the base model's own, and pack again"
        )


def most_segments(splits: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The most segments in a row of any split, padding included; None where a manifest lacks the number."""
    filled = [split for split in splits.values() if split["rows"]]
    if any("most_documents" not in split for split in filled):
        return None
    return 1 + max(split["most_documents"] for split in filled)
