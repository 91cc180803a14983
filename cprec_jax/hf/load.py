"""Hugging Face directory -> `DecoderConfig` and parameters: strict, and read slice by slice into the shards of each device."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.errors import UserError, one_line
from cprec_jax.hf import keys
from cprec_jax.hf.checkpoint_files import CheckpointFiles, read_json
from cprec_jax.hf.config import parse_config
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, Params, abstract_params

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def read_config(directory: Path) -> DecoderConfig:
    """The architecture, from config.json and the names of the tensors (which of the two a tied checkpoint stores)."""
    directory = Path(directory)
    config = parse_config(read_json(directory / "config.json"), str(directory / "config.json"))
    names = CheckpointFiles(directory).names
    if not config.tie_embeddings or HEAD not in names:
        return config
    return dataclasses.replace(config, tied_tensor="both" if EMBEDDING in names else "lm_head")


def source_dtype(directory: Path) -> str:
    """The dtype of the embedding as stored: what `save` needs to give the same bits back."""
    files = CheckpointFiles(Path(directory))
    return files.dtype(EMBEDDING if EMBEDDING in files.names else HEAD)


def load_params(directory: Path, config: DecoderConfig, shardings: Any = None) -> Params:
    """The parameters as float32 arrays, on the default device or spread as `shardings` (a pytree like the parameters) says.

    `config` is what `read_config` gave. Raises `UserError` for missing, unmapped or duplicate tensors, wrong shapes, a tokenizer
    larger than the embedding, damaged files.
    """
    directory = Path(directory)
    files = CheckpointFiles(directory)
    shapes, _ = abstract_params(Decoder(config))
    _check_names(files, config)
    _check_shapes(files, config, shapes)
    _check_tokenizer(directory, config)
    groups = keys.by_parameter(config)

    def load(path: Any, leaf: jax.ShapeDtypeStruct, sharding: Any = None) -> jax.Array:
        group = groups[tuple(entry.key for entry in path)]
        if sharding is None:
            return jnp.asarray(_read(files, group, leaf.shape, (slice(None),) * leaf.ndim))

        def shard(index: keys.Index | None) -> np.ndarray:
            assert index is not None
            return _read(files, group, leaf.shape, index)

        return jax.make_array_from_callback(leaf.shape, sharding, shard)

    trees = (shapes,) if shardings is None else (shapes, shardings)
    params = jax.tree_util.tree_map_with_path(load, *trees)
    if config.tie_embeddings and config.tied_tensor == "both":
        _check_tied(files)
    return params


def _check_names(files: CheckpointFiles, config: DecoderConfig) -> None:
    expected = {tensor.name for tensor in keys.tensors(config)}
    missing = expected - files.names
    if missing:
        raise UserError(f"{files.directory}: config.json asks for tensors that the checkpoint lacks: {keys.few(missing)}")
    unmapped = {name for name in files.names - expected if not keys.derived(name)}
    if unmapped:
        raise UserError(f"{files.directory}: tensors that {config.model_type} with this config.json has no place for: {keys.few(unmapped)}")


def _check_shapes(files: CheckpointFiles, config: DecoderConfig, shapes: Params) -> None:
    for tensor in keys.tensors(config):
        leaf = _leaf(shapes, tensor.path)
        want = tensor.layout.their_shape(leaf.shape if tensor.layer is None else leaf.shape[1:])
        if files.shape(tensor.name) != want:
            raise UserError(f"{files.directory}: tensor {tensor.name} has shape {files.shape(tensor.name)}, config.json says {want}")
        files.dtype(tensor.name)


def _check_tied(files: CheckpointFiles) -> None:
    whole = (slice(None), slice(None))
    if not np.array_equal(files.read(HEAD, whole), files.read(EMBEDDING, whole)):
        raise UserError(f"{files.directory}: tie_word_embeddings is true, but {HEAD} and {EMBEDDING} differ; set it to false")


def _check_tokenizer(directory: Path, config: DecoderConfig) -> None:
    """A token id beyond the embedding would be clamped to the last row without an error."""
    path = directory / "tokenizer.json"
    if not path.exists():
        return
    try:
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        vocab = tokenizer["model"].get("vocab", ())
        ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
        size = max([*ids, *(token["id"] for token in tokenizer.get("added_tokens", ()))], default=-1) + 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a usable tokenizer ({one_line(error)})") from error
    if size > config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {size} tokens, the embedding only {config.vocab_size} rows; they do not belong together"
        )


def _leaf(tree: Any, path: keys.Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _read(files: CheckpointFiles, group: list[keys.Tensor], shape: tuple[int, ...], index: keys.Index) -> np.ndarray:
    """Our slice `index` of one parameter, float32, from the tensors that make it up."""
    if group[0].layer is None:
        return _read_one(files, group[0], shape, index)
    bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
    result = np.empty([stop - start for start, stop in bounds], np.float32)
    for row, tensor in enumerate(group[slice(*bounds[0])]):
        result[row] = _read_one(files, tensor, shape[1:], index[1:])
    return result


def _read_one(files: CheckpointFiles, tensor: keys.Tensor, shape: tuple[int, ...], index: keys.Index) -> np.ndarray:
    theirs = files.read(tensor.name, tensor.layout.their_index(index, shape))
    part = [stop - start for start, stop in (i.indices(size)[:2] for i, size in zip(index, shape, strict=True))]
    return tensor.layout.to_ours(theirs, part).astype(np.float32)
