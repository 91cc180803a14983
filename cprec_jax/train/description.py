"""RUN/config.json, which describes a run so that it can be loaded again; and the model that a config means."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from cprec_jax import artefact
from cprec_jax.config.build import build
from cprec_jax.config.help import written
from cprec_jax.config.lora import LoraSpec
from cprec_jax.config.model import ModelSpec
from cprec_jax.config.root import Config
from cprec_jax.config.rows import Reads
from cprec_jax.config.text import TemplateSpec
from cprec_jax.config.train import TrainSpec
from cprec_jax.model.attention import packed_attention
from cprec_jax.model.backends import attend_for
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder
from cprec_jax.model.lora import Adapters
from cprec_jax.train.lora import adapters_of
from cprec_jax.train.schedule import fractions
from cprec_jax.workdir import DESCRIPTION


def training_facts(spec: TrainSpec) -> dict[str, Any]:
    """The facts of `config.train` for the model card of a run, as JSON."""
    warmup, stable, anneal = (f"{100 * part:.4g} %" for part in fractions(spec.schedule))
    schedule = {"warm-up": warmup, "stable": stable, "annealing": anneal}
    schedule |= {name: getattr(spec.schedule, name) for name in ("peak", "end", "shape")}
    return {
        "schedule": schedule,
        "optimizer": spec.optimizer.of_kind,
        "global_batch": spec.global_batch,
        "seed": spec.seed,
    }


def decoder_config(
    spec: ModelSpec,
    vocab_size: int,
    base_vocab_size: int | None = None,
    token_ids: Mapping[str, int] | None = None,
    named: Collection[str] = (),
) -> DecoderConfig:
    """The architecture of a run.

    Args:
      vocab_size: tokens of the tokenizer. A new model rounds it up to a multiple of 64; a base model gets rows for new
        tokens (`hf/vocabulary.py`).
      base_vocab_size: the tokens that are not new; None: all.
      token_ids: of the tokenizer by text, for messages.
      named: the texts of config.text.new_tokens, also those that the tokenizer had before.

    Raises `UserError` for a base model whose embedding is too small for its own tokenizer.
    """
    if spec.init_from is not None:
        from cprec_jax.hf.hub import locate
        from cprec_jax.hf.load import read_config
        from cprec_jax.hf.vocabulary import with_room

        config = read_config(locate(spec.init_from))
        return with_room(
            config,
            vocab_size if base_vocab_size is None else base_vocab_size,
            vocab_size,
            spec.init_from,
            token_ids,
            named,
        )
    return DecoderConfig(
        vocab_size=-(-vocab_size // 64) * 64,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim or spec.hidden_size // spec.num_heads,
        tie_embeddings=spec.tie_embeddings,
        rope_theta=spec.rope_theta,
        max_position_embeddings=spec.max_position_embeddings,
        initializer_range=spec.initializer_range,
    )


def make_decoder(
    spec: ModelSpec,
    config: DecoderConfig,
    row_length: int | None = None,
    most_segments: int | None = None,
    adapters: Adapters | None = None,
) -> Decoder:
    """The decoder of `spec` with the architecture `config`.

    Args:
      row_length: tokens per packed row; None (evaluation, export): attention is the reference, `xla`.
      most_segments: the most segments in a row, padding included; None: unknown.
      adapters: the adapters of its linear layers; None: it has none.
    """
    if row_length is None:
        attend = packed_attention()
    else:
        attend = attend_for(
            spec.attention, config, jnp.dtype(spec.dtype), row_length, spec.attention_segments, most_segments
        )
    return Decoder(
        config=config,
        dtype=jnp.dtype(spec.dtype),
        remat=spec.remat,
        unroll=spec.unroll,
        dropout=spec.dropout,
        attend=attend,
        adapters=adapters,
    )


def write_description(
    directory: Path, decoder: DecoderConfig, config: Config, made_from: Mapping[str, Any], reads: Reads
) -> None:
    """Write RUN/config.json: what evaluation and export need of a run besides its checkpoints and tokenizer.

    Its `rows` is the directory in WORKDIR/rows that the run reads; the run's tokenizer is in it.
    """
    record = {
        "version": 3,
        "rows": reads.kind.name,
        "sets": reads.sets,
        "objective": next((spec.loss.objective for spec in config.runs.values()), "language-model"),
        "start": next((spec.parent for spec in config.runs.values()), None),
        "inputs_hash": artefact.fingerprint(made_from),
        artefact.MADE_FROM: dict(made_from),
        "decoder": dataclasses.asdict(decoder),
        "template": dataclasses.asdict(config.text.template),
        "model": written(config.model),
        "train": written(config.train_section),
        "lora": next((written(spec.lora) for spec in config.runs.values()), None),
    }
    artefact.write_json(directory / DESCRIPTION, record)


def made_from_of(directory: Path) -> dict[str, Any] | None:
    """What a run, finished or not, is made from; None where it has not begun."""
    path = directory / DESCRIPTION
    return dict(artefact.read_json(path, "train")[artefact.MADE_FROM]) if path.exists() else None


def read_description(directory: Path) -> dict[str, Any]:
    """RUN/config.json, with `decoder`, `template`, `model`, `train` and `lora` as their dataclasses.

    `lora` is None for a run that trains no adapter. Raises `UserError` for an absent or unfit file.
    """
    path = directory / DESCRIPTION
    record = artefact.read_json(path, "train")
    classes = {"decoder": DecoderConfig, "template": TemplateSpec, "model": ModelSpec, "train": TrainSpec}
    for name, cls in classes.items():
        record[name] = build(cls, record[name], f"{path}: {name}")
    lora = record.get("lora")
    record["lora"] = None if lora is None else build(LoraSpec, lora, f"{path}: lora")
    return record


def adapters_of_run(directory: Path) -> Adapters | None:
    """The adapters that a run trains; None for a run without an adapter."""
    description = read_description(directory)
    return (
        None
        if description["lora"] is None
        else adapters_of(description["lora"], description["decoder"], str(directory / DESCRIPTION))
    )
