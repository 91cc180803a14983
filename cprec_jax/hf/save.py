"""Parameters -> Hugging Face directory, written whole or not at all, and read back before it gets its name."""

import functools
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from cprec_jax.artefact import new_directory, write_json
from cprec_jax.errors import UserError
from cprec_jax.hf import keys, tensor_file
from cprec_jax.hf.checkpoint_files import INDEX, SINGLE, CheckpointFiles
from cprec_jax.hf.config import unparse_config
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, Params, abstract_params
from cprec_jax.text import tokenizer, tokenizer_files

NUMPY_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md")


def save(
    directory: Path,
    params: Params,
    config: DecoderConfig,
    tokenizer_dir: Path | None,
    card_text: str,
    dtype: str = "float32",
    shard_bytes: int = 4 * 2**30,
    base_dir: Path | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write a directory that `transformers` loads: weights, config.json, generation_config.json, tokenizer files,
    README.md.

    `params` as the decoder has them, sharded or not (every process of a run must call; process 0 writes). One tensor is
    on the host at a time. dtype: float32, bfloat16 or
    float16 of the stored weights. A file holds at most about `shard_bytes`; more than one get an index. tokenizer_dir:
    where tokenizer files are copied from (None: a model without a tokenizer). base_dir: where generation_config.json,
    licence files and the token ids of config.json come from, as far as it has them (default: tokenizer_dir). Raises
    `UserError` if the parameters do not fit the config, the family cannot express the config, or float16 would
    overflow.
    """
    directory = Path(directory)
    if dtype not in NUMPY_DTYPES:
        raise UserError(f"export dtype {dtype!r} is unknown; choose one of: {', '.join(NUMPY_DTYPES)}")
    _check_params(params, config)
    base_dir = tokenizer_dir if base_dir is None else base_dir
    token_ids = {} if tokenizer_dir is None else special_token_ids(Path(tokenizer_dir), base_dir)
    raw = unparse_config(config, dtype, token_ids)
    stored = np.dtype(NUMPY_DTYPES[dtype])
    files = _plan(config, shard_bytes, stored)
    if jax.process_index() != 0:  # takes part in gathering only
        for tensor in itertools.chain.from_iterable(files.values()):
            gather(params, tensor, stored)
        wait_for_all()
        return
    with new_directory(directory) as temporary:
        write_json(temporary / "config.json", raw)
        _write_weights(temporary, params, files, stored)
        if tokenizer_dir is not None:
            tokenizer_files.copy(Path(tokenizer_dir), temporary)
        _write_generation_config(temporary, base_dir, token_ids)
        if base_dir is not None:
            _copy(LICENCES, Path(base_dir), temporary)
        (temporary / "README.md").write_text(card_text, encoding="utf-8")
        if check is not None:
            check(temporary)
    wait_for_all()


def _copy(names: Sequence[str], source: Path, target: Path) -> None:
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def wait_for_all() -> None:
    """No process goes on before the directory is there."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("export")


def special_token_ids(tokenizer_dir: Path, base_dir: Path | None = None) -> dict[str, int]:
    """bos_token_id, eos_token_id, pad_token_id: the base model's config.json first (Llama 3 has several end tokens),
    else the tokenizer."""
    config = tokenizer_files.read_object((base_dir or tokenizer_dir) / "config.json")
    result = {f"{name}_id": config[f"{name}_id"] for name in tokenizer_files.SPECIAL if f"{name}_id" in config}
    missing = [name for name in tokenizer_files.SPECIAL if f"{name}_id" not in config]
    if missing and tokenizer_files.has_tokenizer(tokenizer_dir):
        has_file = (tokenizer_dir / tokenizer_files.WHOLE).exists()
        ids = (
            tokenizer_files.token_ids(tokenizer_dir) if has_file else tokenizer.load(tokenizer_dir).backend.get_vocab()
        )
        texts = tokenizer_files.special_tokens(tokenizer_dir, missing)
        result |= {f"{name}_id": ids.get(text) for name, text in texts.items() if text is not None}
    return {name: index for name, index in result.items() if index is not None}


def _check_params(params: Params, config: DecoderConfig) -> None:
    shapes, _ = abstract_params(Decoder(config))
    want = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    have = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    wrong = {
        f"{name} {have.get(name)} instead of {want.get(name)}"
        for name in want.keys() | have.keys()
        if want.get(name) != have.get(name)
    }
    if wrong:
        raise UserError(f"the parameters do not fit the model config: {keys.few(wrong)}")


def _plan(config: DecoderConfig, shard_bytes: int, dtype: np.dtype) -> dict[str, list[keys.Tensor]]:
    """Which tensors go to which file; a file holds at most `shard_bytes`, or one tensor."""
    shapes, _ = abstract_params(Decoder(config))
    files: list[list[keys.Tensor]] = [[]]
    size = 0
    for tensor in keys.tensors(config):
        bytes_ = dtype.itemsize * int(np.prod(tensor.hf_shape(shapes)))
        if files[-1] and size + bytes_ > shard_bytes:
            files.append([])
            size = 0
        files[-1].append(tensor)
        size += bytes_
    if len(files) == 1:
        return {SINGLE: files[0]}
    return {
        f"model-{number:05d}-of-{len(files):05d}.safetensors": tensors for number, tensors in enumerate(files, start=1)
    }


@functools.partial(jax.jit, static_argnames="dtype")
def _pick(leaf: jax.Array, layer: Any, dtype: np.dtype) -> tuple[jax.Array, jax.Array]:
    """One layer (or all of a parameter that is not stacked) in `dtype`, and whether all of it is finite."""
    picked = (leaf if layer is None else jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)).astype(dtype)
    return picked, jnp.isfinite(picked).all()


def gather(params: Params, tensor: keys.Tensor, dtype: np.dtype) -> np.ndarray:
    """One tensor, whole on this host, whatever devices and processes it is spread over. Every process must call it."""
    picked, finite = _pick(tensor.leaf(params), None if tensor.layer is None else np.int32(tensor.layer), dtype)
    if not finite:
        raise UserError(
            f"tensor {tensor.name} has values that are not finite in {dtype}; export another dtype, or look for a "
            "diverged run"
        )
    if not picked.is_fully_addressable:
        from jax.experimental import multihost_utils

        picked = multihost_utils.process_allgather(picked, tiled=True)
    return tensor.layout.to_hf(np.asarray(picked))


def _write_weights(directory: Path, params: Params, files: Mapping[str, list[keys.Tensor]], dtype: np.dtype) -> None:
    weight_map: dict[str, str] = {}
    total = 0
    for file, tensors in files.items():
        described = [(tensor.name, dtype, tensor.hf_shape(params)) for tensor in tensors]
        tensor_file.write(directory / file, described, (gather(params, tensor, dtype) for tensor in tensors))
        weight_map |= dict.fromkeys((tensor.name for tensor in tensors), file)
        total += sum(dtype.itemsize * int(np.prod(shape)) for _, _, shape in described)
    if len(files) > 1:
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    CheckpointFiles(directory)  # index and files agree


def _write_generation_config(directory: Path, base_dir: Path | None, token_ids: Mapping[str, Any]) -> None:
    source = None if base_dir is None else Path(base_dir) / "generation_config.json"
    if source is not None and source.exists():
        shutil.copyfile(source, directory / "generation_config.json")
    else:
        write_json(directory / "generation_config.json", {"_from_model_config": True, **token_ids})
