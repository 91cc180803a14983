"""What a training run IS: its specs, its model, and the file that lets others load it again."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from cprec_jax import artefact
from cprec_jax.data.mixture import MixtureSpec
from cprec_jax.model.attention import packed_attention
from cprec_jax.model.backends import attend_for
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder
from cprec_jax.spec import at_least_one, build
from cprec_jax.train.optimizer import OptimizerSpec
from cprec_jax.train.schedule import ScheduleSpec, fractions

STAGE = "cpt"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """`config.model`: what to start from (`init_from`), or the shape of a new Llama; and how it computes.

    init_from: a Hugging Face directory or a hub id `owner/name[@revision]`.
    The vocabulary of a new model is the tokenizer's, rounded up to a multiple of 64. With `init_from` the shape fields are not used.
    attention: the backend; `auto` goes by the device, and the log says which and why. attention_segments: the most documents and padding
    a row may hold under `cudnn`, whose memory grows with it (None: as many as the rows hold).
    """

    init_from: str | None = None
    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 4
    num_heads: int = 6
    num_kv_heads: int = 6
    head_dim: int | None = None
    tie_embeddings: bool = True
    rope_theta: float = 10000.0
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    unroll: bool = False
    dropout: float = 0.0
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    attention_segments: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must lie in [0, 1)")
        if self.attention_segments is not None and self.attention_segments < 2:
            raise ValueError(f"attention_segments {self.attention_segments} must be at least 2 (a document and padding)")
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}; set head_dim")


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """`config.train`. Exactly one of `steps`, `epochs` (over all rows, by size) and `tokens` says how long.

    seeds: how many runs, one after the other, the first with `seed`, the next with `seed` + 1, ... (None: as many as
    `config.evaluate.seeds`, so that what is evaluated exists). anneal_mixture: the mixture of the annealing phase; what it leaves unset is
    as in `mixture` (None: all of it).
    """

    seed: int = 0
    seeds: int | None = None
    global_batch: int = 16
    micro_batches: int = 1
    steps: int | None = None
    epochs: float | None = None
    tokens: int | None = None
    loss_chunk: int = 128
    log_every: int = 10
    checkpoint_every: int = 200
    keep: int = 2
    milestones: tuple[float, ...] = ()
    loader_workers: int = 0
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    mixture: MixtureSpec = field(default_factory=MixtureSpec)
    anneal_mixture: MixtureSpec | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("steps", "epochs", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"set exactly one of steps, epochs, tokens (now: {', '.join(given) or 'none'}); set the others to None")
        if self.global_batch % self.micro_batches:
            raise ValueError(f"global_batch {self.global_batch} is not a multiple of micro_batches {self.micro_batches}")
        if any(not 0 <= m <= 1 for m in self.milestones):
            raise ValueError(f"milestones {self.milestones} are fractions of the run, 0..1")
        at_least_one(self, "global_batch", "micro_batches", "loss_chunk", "log_every", "checkpoint_every", "keep", "seeds")

    def total_steps(self, rows: int, row_length: int) -> int:
        """The length of the run in steps."""
        if self.steps is not None:
            return self.steps
        if self.epochs is not None:
            return max(1, round(self.epochs * rows / self.global_batch))
        assert self.tokens is not None
        return max(1, round(self.tokens / (self.global_batch * row_length)))


def training_facts(section: Mapping[str, Any]) -> dict[str, Any]:
    """What the section `config.train` of a run means, defaults included, as JSON: for its model card."""
    spec = build(TrainSpec, section, "config.train")
    warmup, stable, anneal = (f"{100 * part:.4g} %" for part in fractions(spec.schedule))
    schedule = {"warm-up": warmup, "stable": stable, "annealing": anneal}
    schedule |= {name: getattr(spec.schedule, name) for name in ("peak", "end", "shape")}
    return {"schedule": schedule, "optimizer": vars(spec.optimizer), "global_batch": spec.global_batch, "seed": spec.seed}


def seeds(config: Mapping[str, Any]) -> int:
    """How many runs a config means: `config.train.seeds`, else `config.evaluate.seeds`, else one."""
    given = config.get("train", {}).get("seeds")
    return int(config.get("evaluate", {}).get("seeds", 1) if given is None else given)


def of_seed(config: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """The config of run `number` of a config with several seeds; the first is the config itself."""
    if number == 0:
        return config
    return {**config, "train": {**config["train"], "seed": config["train"].get("seed", 0) + number}}


def run_directory(workdir: Path, number: int = 0) -> Path:
    """Where run `number` is: WORKDIR/runs/cpt, and for further seeds runs/cpt/seed-1, seed-2, ..."""
    first = workdir / "runs" / STAGE
    return first if number == 0 else first / f"seed-{number}"


def anneal_mixture(section: Mapping[str, Any]) -> MixtureSpec:
    """The mixture of the annealing phase, from the section `config.train`: what `anneal_mixture` leaves unset is as in `mixture`."""
    merged = {**section.get("mixture", {}), **(section.get("anneal_mixture") or {})}
    return build(MixtureSpec, merged, "config.train.anneal_mixture")


@dataclass(frozen=True, kw_only=True)
class MeshSpec:
    """`config.mesh`: devices on each axis; -1 takes the rest."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def decoder_config(
    spec: ModelSpec,
    vocab_size: int,
    base_vocab_size: int | None = None,
    token_ids: Mapping[str, int] | None = None,
    named: Collection[str] = (),
) -> DecoderConfig:
    """The architecture of a run, for a tokenizer of `vocab_size`, `base_vocab_size` of them not new (default: all).

    token_ids: of the tokenizer, for the message; named: the texts of config.text.new_tokens, the known ones too. A base model whose
    embedding is too small for its own tokenizer is a `UserError`; new tokens get rows (`hf/vocabulary.py`).
    """
    if spec.init_from is not None:
        from cprec_jax.hf.hub import locate
        from cprec_jax.hf.load import read_config
        from cprec_jax.hf.vocabulary import with_room

        config = read_config(locate(spec.init_from))
        return with_room(config, vocab_size if base_vocab_size is None else base_vocab_size, vocab_size, spec.init_from, token_ids, named)
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


def make_decoder(spec: ModelSpec, config: DecoderConfig, row_length: int | None = None, most_segments: int | None = None) -> Decoder:
    """The module that computes as `spec` says. Without a `row_length` (evaluation, export) attention is the reference, `xla`.

    most_segments: the most documents and padding that a row holds, if that is known.
    """
    if row_length is None:
        attend = packed_attention()
    else:
        attend = attend_for(spec.attention, config, jnp.dtype(spec.dtype), row_length, spec.attention_segments, most_segments)
    return Decoder(
        config=config,
        dtype=jnp.dtype(spec.dtype),
        remat=spec.remat,
        unroll=spec.unroll,
        dropout=spec.dropout,
        attend=attend,
    )


def write_description(
    directory: Path, decoder: DecoderConfig, template: Mapping[str, Any], config: Mapping[str, Any], inputs: Mapping[str, Any]
) -> None:
    """RUN/config.json: everything evaluation and export need to know about a run besides its checkpoints and tokenizer."""
    record = {
        "version": 1,
        "inputs_hash": artefact.fingerprint(inputs),
        "inputs": dict(inputs),
        "decoder": dataclasses.asdict(decoder),
        "template": dict(template),
        "config": dict(config),
    }
    artefact.write_json(directory / "config.json", record)


def read_description(directory: Path) -> dict[str, Any]:
    """RUN/config.json, with `decoder` as a `DecoderConfig`."""
    record = artefact.read_json(directory / "config.json", "train")
    record["decoder"] = build(DecoderConfig, record["decoder"], f"{directory / 'config.json'}: decoder")
    return record
