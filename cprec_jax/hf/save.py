"""Parameters -> Hugging Face directory, written whole or not at all, and read back before it gets its name."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from cprec_jax.artefact import new_directory, write_json
from cprec_jax.errors import UserError
from cprec_jax.hf import keys
from cprec_jax.hf.checkpoint_files import INDEX, SINGLE, CheckpointFiles
from cprec_jax.hf.config import unparse_config
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, Params, abstract_params
from cprec_jax.text.tokenizer import TOKENIZER_FILES

NUMPY_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
_TOKENS = ("bos_token", "eos_token", "pad_token")


def save(
    directory: Path,
    params: Params,
    config: DecoderConfig,
    tokenizer_dir: Path | None,
    card_text: str,
    dtype: str = "float32",
    shard_bytes: int = 4 * 2**30,
) -> None:
    """Write a directory that `transformers` loads: weights, config.json, generation_config.json, tokenizer files, README.md.

    `params` as the decoder has them, sharded or not (every process of a run must call; process 0 writes). dtype: float32, bfloat16 or
    float16 of the stored weights. A file holds at most about `shard_bytes`; more than one get an index. tokenizer_dir: where tokenizer
    files and generation_config.json are copied from (None: a model without a tokenizer). Raises `UserError` if the parameters do not
    fit the config, the family cannot express the config, or float16 would overflow.
    """
    directory = Path(directory)
    if dtype not in NUMPY_DTYPES:
        raise UserError(f"export dtype {dtype!r} is unknown; choose one of: {', '.join(NUMPY_DTYPES)}")
    _check_params(params, config)
    token_ids = {} if tokenizer_dir is None else special_token_ids(Path(tokenizer_dir))
    raw = unparse_config(config, dtype, token_ids)
    files = _shards(params, config, dtype, shard_bytes)
    if jax.process_index() != 0:  # takes part in gathering only
        for _ in files:
            pass
        return
    with new_directory(directory) as temporary:
        write_json(temporary / "config.json", raw)
        _write_weights(temporary, files, (temporary / "config.json").stat().st_mode)
        if tokenizer_dir is not None:
            for name in TOKENIZER_FILES:
                if (Path(tokenizer_dir) / name).exists():
                    shutil.copyfile(Path(tokenizer_dir) / name, temporary / name)
        _write_generation_config(temporary, tokenizer_dir, token_ids)
        (temporary / "README.md").write_text(card_text, encoding="utf-8")


def special_token_ids(tokenizer_dir: Path) -> dict[str, int]:
    """bos_token_id, eos_token_id, pad_token_id as far as the tokenizer's files (or the config.json beside them) say."""

    def read(name: str) -> dict[str, Any]:
        path = tokenizer_dir / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); check the tokenizer directory") from error

    settings, model, config = read("tokenizer_config.json"), read("tokenizer.json"), read("config.json")
    ids = {token["content"]: token["id"] for token in model.get("added_tokens", ())}
    vocab = model.get("model", {}).get("vocab", {})
    result = {}
    for name in _TOKENS:
        text = settings.get(name)
        text = text.get("content") if isinstance(text, Mapping) else text
        found = ids.get(text, vocab.get(text) if isinstance(vocab, Mapping) and text is not None else None)
        found = config.get(f"{name}_id", found)  # the base model's own word first (Llama 3 has several end tokens)
        if found is not None:
            result[f"{name}_id"] = found
    return result


def _check_params(params: Params, config: DecoderConfig) -> None:
    shapes, _ = abstract_params(Decoder(config))
    want = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    have = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    wrong = {
        f"{name} {have.get(name)} instead of {want.get(name)}" for name in want.keys() | have.keys() if want.get(name) != have.get(name)
    }
    if wrong:
        raise UserError(f"the parameters do not fit the model config: {keys.few(wrong)}")


def _whole(leaf: Any) -> np.ndarray:
    """The whole array on this host, whatever devices and processes it is spread over."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        from jax.experimental import multihost_utils

        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _cast(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        result = array.astype(NUMPY_DTYPES[dtype])
    if not np.isfinite(result.astype(np.float32)).all():
        raise UserError(f"tensor {name} has values that are not finite in {dtype}; export another dtype, or look for a diverged run")
    return result


def _shards(params: Params, config: DecoderConfig, dtype: str, shard_bytes: int) -> Iterator[dict[str, np.ndarray]]:
    """The tensors in files of at most `shard_bytes` (or one tensor). One stacked parameter is on the host at a time."""
    shard: dict[str, np.ndarray] = {}
    size = 0
    for path, group in keys.by_parameter(config).items():
        leaf: Any = params
        for key in path:
            leaf = leaf[key]
        whole = _whole(leaf)
        for tensor in group:
            theirs = tensor.layout.to_theirs(whole if tensor.layer is None else whole[tensor.layer])
            theirs = _cast(theirs, dtype, tensor.name)
            if shard and size + theirs.nbytes > shard_bytes:
                yield shard
                shard, size = {}, 0
            shard[tensor.name] = theirs
            size += theirs.nbytes
    yield shard


def _write_weights(directory: Path, shards: Iterator[dict[str, np.ndarray]], mode: int) -> None:
    written: list[tuple[Path, list[str]]] = []
    total = 0
    for shard in shards:
        path = directory / f"part-{len(written)}.safetensors"
        save_file(shard, path, metadata={"format": "pt"})
        path.chmod(mode)  # safetensors makes files that only their owner can read
        _check_written(path, shard)
        written.append((path, sorted(shard)))
        total += sum(array.nbytes for array in shard.values())
    if len(written) == 1:
        written[0][0].rename(directory / SINGLE)
    else:
        weight_map: dict[str, str] = {}
        for number, (path, names) in enumerate(written, start=1):
            file = f"model-{number:05d}-of-{len(written):05d}.safetensors"
            path.rename(directory / file)
            weight_map |= dict.fromkeys(names, file)
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    CheckpointFiles(directory)  # index and files agree


def _check_written(path: Path, shard: dict[str, np.ndarray]) -> None:
    with safe_open(path, framework="numpy") as handle:
        assert set(handle.keys()) == set(shard), f"{path}: other tensors came back"
        for name, array in shard.items():
            same = handle.get_tensor(name).tobytes() == array.tobytes()
            if not same:
                raise OSError(f"{path}: tensor {name} read back differently; is the disk sound?")


def _write_generation_config(directory: Path, tokenizer_dir: Path | None, token_ids: Mapping[str, Any]) -> None:
    source = None if tokenizer_dir is None else Path(tokenizer_dir) / "generation_config.json"
    if source is not None and source.exists():
        shutil.copyfile(source, directory / "generation_config.json")
    else:
        write_json(directory / "generation_config.json", {"_from_model_config": True, **token_ids})
