"""The adapter of a run -> a directory that PEFT loads: adapter_model.safetensors, and adapter_config.json written from
the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cprec_jax.artefact import new_directory, write_json
from cprec_jax.config.lora import LoraSpec
from cprec_jax.hf import keys, tensor_file
from cprec_jax.hf.adapter import WEIGHTS
from cprec_jax.hf.checkpoint_files import ADAPTER
from cprec_jax.hf.save import gather, wait_for_all
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Params
from cprec_jax.text import tokenizer_files

DTYPE = np.dtype(np.float32)  # of adapters; they are small, and PEFT computes in the dtype of the base


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The model that an adapter belongs to, as `base_model_name_or_path` and `revision` of PEFT name it."""

    name: str
    revision: str | None = None


def adapter_config(spec: LoraSpec, base: BaseModel, tensors: Sequence[keys.Tensor]) -> dict[str, Any]:
    """Every setting that PEFT takes a default for where it is absent: a default would be another rank or scale, without
    an error."""
    modules = {
        tensor.name.removesuffix(keys.LORA_A).rpartition(".")[2]
        for tensor in tensors
        if tensor.name.endswith(keys.LORA_A)
    }
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
        "r": spec.rank,
        "lora_alpha": int(spec.alpha) if spec.alpha == int(spec.alpha) else spec.alpha,
        "lora_dropout": spec.dropout,
        "use_rslora": spec.rslora,
        "use_dora": False,
        "bias": "none",
        "lora_bias": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": sorted(modules),
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
    }


def save_adapter(
    directory: Path,
    params: Params,
    config: DecoderConfig,
    weights: Sequence[str],
    spec: LoraSpec,
    base: BaseModel,
    tokenizer_dir: Path | None,
    card_text: str,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write a directory that `PeftModel.from_pretrained` loads onto `base`, and `transformers` with it.

    Args:
      params: of a decoder with adapters, sharded or not (every process of a run must call; process 0 writes).
      weights: of `Adapters`: those that have one.
      tokenizer_dir: where tokenizer files are copied from (None: it has no tokenizer).
    """
    tensors = keys.adapter_tensors(config, weights)
    if jax.process_index() != 0:  # takes part in gathering only
        for tensor in tensors:
            gather(params, tensor, DTYPE)
        wait_for_all()
        return
    with new_directory(Path(directory)) as temporary:
        write_json(temporary / ADAPTER, adapter_config(spec, base, tensors))
        described = [(tensor.name, DTYPE, tensor.hf_shape(params)) for tensor in tensors]
        tensor_file.write(temporary / WEIGHTS, described, (gather(params, tensor, DTYPE) for tensor in tensors))
        if tokenizer_dir is not None:
            tokenizer_files.copy(tokenizer_dir, temporary)
        (temporary / "README.md").write_text(card_text, encoding="utf-8")
        if check is not None:
            check(temporary)
    wait_for_all()
