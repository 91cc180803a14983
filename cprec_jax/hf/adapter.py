"""A PEFT adapter (LoRA) read: the base model it belongs to, and the tensors of that model with what the adapter adds to
them.

What is not LoRA on linear layers (DoRA, biases, trained modules, ...) is refused by name. The format:
docs/base-models.md.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax.errors import UserError
from cprec_jax.hf import hub
from cprec_jax.hf.checkpoint_files import ADAPTER, INDEX, SINGLE, CheckpointFiles, read_json
from cprec_jax.hf.keys import EMBEDDING, HEAD, few
from cprec_jax.hf.keys import LORA_A as A
from cprec_jax.hf.keys import LORA_B as B
from cprec_jax.hf.settings import Settings
from cprec_jax.hf.tensor_file import TensorFile
from cprec_jax.model.config import DecoderConfig
from cprec_jax.text import tokenizer_files

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# rows of a product made at a time: always the same blocks, so that no bit depends on how a tensor is cut over devices
BLOCK = 256

# Settings that are read, and those that say nothing about the sum of base and adapter. Any other must be off.
_READ = {
    *(
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "revision",
        "r",
        "lora_alpha",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
    ),
    *("bias", "init_lora_weights"),
}
_MEANINGLESS = {
    *(
        "auto_mapping",
        "peft_version",
        "inference_mode",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "runtime_config",
    ),
    *(
        "layers_to_transform",
        "layers_pattern",
        "megatron_core",
        "qalora_group_size",
        "eva_config",
        "ensure_weight_tying",
    ),
}
_KNOWN = {
    "use_dora": "DoRA",
    "modules_to_save": "modules that were trained whole",
    "lora_bias": "biases of the adapter",
}
_INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")  # others take something off the base model's weights


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds a PEFT adapter."""
    return (directory / ADAPTER).exists()


def model_directory(directory: Path) -> Path:
    """Where config.json, licence and card of a model are: the directory itself, of an adapter that of its base
    model."""
    return base_of(directory) if is_adapter(directory) else directory


def tokenizer_directory(directory: Path) -> Path:
    """Where the tokenizer of a model is: an adapter may have none of its own."""
    return (
        model_directory(directory)
        if is_adapter(directory) and not tokenizer_files.has_tokenizer(directory)
        else directory
    )


def base_of(directory: Path) -> Path:
    """The directory of the model that an adapter belongs to. Absent, beside the adapter, or an adapter itself:
    `UserError`."""
    for name in (SINGLE, INDEX):
        if (directory / name).exists():
            raise UserError(f"{directory}: holds both an adapter ({ADAPTER}) and a model ({name}); give one of them")
    base = hub.locate(base_name(directory))
    if is_adapter(base):
        raise UserError(f"{directory / ADAPTER}: its base model {base} is an adapter itself; merge that one first")
    return base


def base_name(directory: Path) -> str:
    """The model that an adapter belongs to: a directory, or a hub id with its revision."""
    settings = Settings(read_json(directory / ADAPTER), str(directory / ADAPTER))
    name, revision = settings.value("base_model_name_or_path", str, ""), settings.value("revision", str, "")
    if not name:
        raise UserError(f"{settings.where}: names no base_model_name_or_path, so there is nothing to add it to")
    return f"{name}@{revision}" if revision and not hub.is_directory(name) else name


def open_files(directory: Path) -> CheckpointFiles:
    """The tensors of a Hugging Face directory; of an adapter those of its base model, with it."""
    return AdaptedFiles(directory) if is_adapter(directory) else CheckpointFiles(directory)


@dataclass(frozen=True, kw_only=True)
class _Factors:
    """What is added to one tensor [out, in]: scale * B A."""

    file: TensorFile
    module: str
    scale: float

    def shape(self) -> tuple[int, int]:
        """[out, in]"""
        return self._part(B)[0], self._part(A)[1]

    def _part(self, part: str) -> tuple[int, ...]:
        return self.file.entries[PREFIX + self.module + part].shape

    def block(self, number: int) -> np.ndarray:
        """Rows number * BLOCK and on, float64."""
        a = self.file.rows(PREFIX + self.module + A, 0, self._part(A)[0]).astype(np.float64)
        rows = min((number + 1) * BLOCK, self.shape()[0])
        b = self.file.rows(PREFIX + self.module + B, number * BLOCK, rows).astype(np.float64)
        return self.scale * (b @ a)


class _Sum(TensorFile):
    """The file of one tensor, which is read with what is added to it: float32, rounded once."""

    def __init__(self, base: TensorFile, factors: _Factors):
        self.path, self.entries = base.path, base.entries
        self._base, self._factors = base, factors

    def dtype(self, name: str) -> np.dtype:
        self._base.dtype(name)  # one that is not supported
        return np.dtype(np.float32)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        first = start // BLOCK
        blocks = [self._factors.block(number) for number in range(first, max(first + 1, math.ceil(stop / BLOCK)))]
        added = np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]
        return (self._base.rows(name, start, stop).astype(np.float64) + added).astype(np.float32)


class AdaptedFiles(CheckpointFiles):
    """The tensors of an adapter's base model with the adapter in them. Raises `UserError` for what is not LoRA or does
    not fit."""

    def __init__(self, directory: Path):
        self.adapter = directory
        settings = _checked(read_json(directory / ADAPTER), directory / ADAPTER)
        super().__init__(base_of(directory))
        file = TensorFile(directory / WEIGHTS) if (directory / WEIGHTS).exists() else _no_weights(directory)
        self._factors = {f"{module}.weight": _factors(file, module, settings) for module in _modules(file)}
        homeless = self._factors.keys() - self.names
        if homeless:
            raise UserError(
                f"{file.path}: adapts tensors that its base model {self.directory} has not: {few(homeless)}"
            )
        for name, factors in self._factors.items():
            if self.shape(name) != factors.shape():
                raise UserError(
                    f"{file.path}: adapts {name} as {factors.shape()}, which is {self.shape(name)} in {self.directory}"
                )

    def file(self, name: str) -> TensorFile:
        file = super().file(name)
        return _Sum(file, self._factors[name]) if name in self._factors else file

    def check(self, config: DecoderConfig) -> None:
        """`UserError` where it adapts embedding or head of a model in which these are one."""
        tied = self._factors.keys() & {HEAD, EMBEDDING}
        if config.tie_embeddings and tied:
            raise UserError(
                f"{self.adapter / WEIGHTS}: adapts {few(tied)}, and head and embedding are one in its base model "
                "(tied): added to one it "
                "would change the other"
            )


def _no_weights(directory: Path) -> TensorFile:
    if any(directory.glob("adapter_model.bin")):
        raise UserError(
            f"{directory}: has only adapter_model.bin (a pickle, which can run code); save it as safetensors with "
            "PEFT first"
        )
    raise UserError(f"{directory / WEIGHTS}: not found; an adapter needs it beside {ADAPTER}")


def _checked(settings: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The settings, where they say nothing but LoRA."""
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type {settings.get('peft_type')!r} is not supported; only LORA is")
    if settings.get("task_type") not in (None, "CAUSAL_LM"):
        raise UserError(f"{path}: task_type {settings['task_type']!r} is not supported; only CAUSAL_LM is")
    if settings.get("bias", "none") != "none":
        raise UserError(f"{path}: bias {settings['bias']!r} (trained biases) is not supported; only 'none' is")
    if settings.get("init_lora_weights", True) not in _INITIAL:
        raise UserError(
            f"{path}: init_lora_weights {settings['init_lora_weights']!r} changes the base model's weights, which is "
            "not supported; "
            "convert it to plain LoRA with PEFT (path_initial_model_for_weight_conversion)"
        )
    for key in settings.keys() - (_READ | _MEANINGLESS):
        if settings[key]:
            raise UserError(
                f"{path}: {key} {settings[key]!r} {f'({_KNOWN[key]}) ' if key in _KNOWN else ''}is not supported"
            )
    return settings


def _modules(file: TensorFile) -> list[str]:
    """The adapted modules: each has an A [r, in] and a B [out, r]."""
    modules: dict[str, set[str]] = {}
    for name, entry in file.entries.items():
        part = next((part for part in (A, B) if name.endswith(part)), None)
        if part is None or not name.startswith(PREFIX) or len(entry.shape) != 2:
            raise UserError(f"{file.path}: tensor {name} is not LoRA on a linear layer, and not supported")
        modules.setdefault(name.removeprefix(PREFIX).removesuffix(part), set()).add(part)
        file.dtype(name)
    if half := [module for module, parts in modules.items() if len(parts) < 2]:
        raise UserError(f"{file.path}: holds only one of A and B of {few(half)}")
    if not modules:
        raise UserError(f"{file.path}: holds no tensors")
    return sorted(modules)


def _factors(file: TensorFile, module: str, settings: Mapping[str, Any]) -> _Factors:
    """By the rank and alpha that PEFT would take: 8 where none is given, and the first pattern that the module's name
    ends in."""
    path = file.path.with_name(ADAPTER)
    rank = _number(settings, "rank_pattern", "r", module, path)
    alpha = _number(settings, "alpha_pattern", "lora_alpha", module, path)
    a, b = (file.entries[PREFIX + module + part].shape for part in (A, B))
    if not a[0] == b[1] == rank:
        raise UserError(
            f"{file.path}: the adapter of {module} has rank {a[0]} (A) and {b[1]} (B), and {rank:g} by {path.name}"
        )
    return _Factors(file=file, module=module, scale=alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _number(settings: Mapping[str, Any], patterns: str, default: str, module: str, path: Path) -> float:
    numbers = Settings(settings, str(path))
    by_pattern = numbers.section(patterns)
    try:
        pattern = next((key for key in by_pattern.given if re.match(rf"(.*\.)?({key})$", module)), None)
    except re.error as error:
        raise UserError(f"{path}: {patterns} holds a pattern that is none ({error})") from error
    if pattern is not None:
        return by_pattern.positive(pattern)
    return numbers.positive(default, None if default in settings else 8.0)  # a null is no number
