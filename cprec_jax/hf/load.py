"""Hugging Face directory -> `DecoderConfig` and parameters: strict, and read slice by slice into the shards of each
device.

That of a PEFT adapter is read as its base model with the adapter in it.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.errors import UserError
from cprec_jax.hf import keys
from cprec_jax.hf.adapter import AdaptedFiles, model_directory, open_files, tokenizer_directory
from cprec_jax.hf.checkpoint_files import CheckpointFiles, read_json
from cprec_jax.hf.config import parse_config
from cprec_jax.hf.keys import EMBEDDING, HEAD
from cprec_jax.hf.tensor_file import PIECE
from cprec_jax.hf.tokenizer_fit import check_fit
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, Params, abstract_params
from cprec_jax.text import tokenizer_files


def read_config(directory: Path) -> DecoderConfig:
    """The architecture, from config.json and the names of the tensors (which of the two a tied checkpoint stores)."""
    path = model_directory(Path(directory)) / "config.json"
    config = parse_config(read_json(path), str(path))
    names = open_files(Path(directory)).names
    if not config.tie_embeddings or HEAD not in names:
        return config
    return dataclasses.replace(config, tied_tensor="both" if EMBEDDING in names else "lm_head")


def source_dtype(directory: Path) -> str:
    """The dtype of the embedding as stored: what `save` needs to give the same bits back."""
    files = open_files(Path(directory))
    return files.dtype(EMBEDDING if EMBEDDING in files.names else HEAD).name


def load_params(directory: Path, config: DecoderConfig, shardings: Any = None, named: Collection[str] = ()) -> Params:
    """The parameters as float32 arrays, on the default device or spread as `shardings` (a pytree like the parameters)
    says.

    `config` is what `read_config` gave. Raises `UserError` for missing, unmapped or duplicate tensors, wrong shapes, a
    tokenizer larger than the embedding (but for tokens `named` in config.text.new_tokens), damaged files.
    """
    directory = Path(directory)
    files = check_model(directory, config, named)
    shapes, _ = abstract_params(Decoder(config))
    if config.tie_embeddings and config.tied_tensor == "both":
        _check_tied(files)
    groups = keys.by_parameter(config)

    def load(path: Any, leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding | None = None) -> jax.Array:
        return _load_one(files, groups[tuple(entry.key for entry in path)], leaf.shape, sharding)

    trees = (shapes,) if shardings is None else (shapes, shardings)
    return jax.tree_util.tree_map_with_path(load, *trees)


def check_model(directory: Path, config: DecoderConfig | None = None, named: Collection[str] = ()) -> CheckpointFiles:
    """All that can be said of a base model before any tensor is read: its family, its tensors' names and shapes, its
    tokenizer's size.

    `config` is what `read_config` gives (None: read here). Raises the `UserError` that `load_params` would.
    """
    config = read_config(directory) if config is None else config
    files = open_files(directory)
    _check_names(files, config)
    _check_shapes(files, config, abstract_params(Decoder(config))[0])
    if isinstance(files, AdaptedFiles):
        files.check(config)
    _check_tokenizer(directory, config, named)
    return files


def _load_one(
    files: CheckpointFiles, group: list[keys.Tensor], shape: tuple[int, ...], sharding: jax.sharding.Sharding | None
) -> jax.Array:
    """One parameter. A stacked one is filled on the device, layer by layer, so that the host never holds more than one
    tensor."""
    if group[0].layer is None:
        array = _put(files, group[0], shape, sharding)
        return array if array.dtype == jnp.float32 else _float32(sharding)(array)
    stack = _zeros(shape, sharding)()
    one_layer = sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        assert not sharding.spec or sharding.spec[0] is None, "layers are never sharded"
        one_layer = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[1:]))
    for tensor in group:
        assert tensor.layer is not None
        layer = _put(files, tensor, shape[1:], one_layer)
        stack = _set_layer(sharding)(stack, layer, np.int32(tensor.layer))
        jax.block_until_ready(stack)  # or the tensors of many layers would wait on the host
    return stack


@functools.cache
def _zeros(shape: tuple[int, ...], sharding: jax.sharding.Sharding | None) -> Callable[[], jax.Array]:
    return jax.jit(lambda: jnp.zeros(shape, jnp.float32), out_shardings=sharding)


@functools.cache
def _float32(sharding: jax.sharding.Sharding | None) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x.astype(jnp.float32), out_shardings=sharding)


@functools.cache
def _set_layer(sharding: jax.sharding.Sharding | None) -> Callable[[jax.Array, jax.Array, np.int32], jax.Array]:
    def set_layer(stack: jax.Array, layer: jax.Array, index: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(stack, layer.astype(stack.dtype), index, 0)

    return jax.jit(set_layer, donate_argnums=0, out_shardings=sharding)


def _check_names(files: CheckpointFiles, config: DecoderConfig) -> None:
    expected = {tensor.name for tensor in keys.tensors(config)}
    missing = expected - files.names
    if missing:
        raise UserError(
            f"{files.directory}: config.json asks for tensors that the checkpoint lacks: {keys.few(missing)}"
        )
    unmapped = {name for name in files.names - expected if not keys.derived(name)}
    if unmapped:
        raise UserError(
            f"{files.directory}: tensors that {config.model_type} with this config.json has no place for: "
            f"{keys.few(unmapped)}"
        )


def _check_shapes(files: CheckpointFiles, config: DecoderConfig, shapes: Params) -> None:
    for tensor in keys.tensors(config):
        want = tensor.hf_shape(shapes)
        if files.shape(tensor.name) != want:
            raise UserError(
                f"{files.directory}: tensor {tensor.name} has shape {files.shape(tensor.name)}, config.json says {want}"
            )
        files.dtype(tensor.name)


def _check_tied(files: CheckpointFiles) -> None:
    rows, columns = files.shape(EMBEDDING)
    step = max(1, PIECE // (4 * columns))
    for start in range(0, rows, step):
        part = (slice(start, min(start + step, rows)), slice(None))
        if not np.array_equal(files.read(HEAD, part), files.read(EMBEDDING, part)):
            raise UserError(
                f"{files.directory}: tie_word_embeddings is true, but {HEAD} and {EMBEDDING} differ; set it to false"
            )


def _check_tokenizer(directory: Path, config: DecoderConfig, named: Collection[str]) -> None:
    directory = tokenizer_directory(directory)
    path = directory / tokenizer_files.WHOLE
    if path.exists():
        check_fit(tokenizer_files.token_ids(directory), config.vocab_size, f"{path}: the tokenizer", named=named)


def _put(
    files: CheckpointFiles, tensor: keys.Tensor, shape: tuple[int, ...], sharding: jax.sharding.Sharding | None
) -> jax.Array:
    """One tensor of theirs in our layout, on its devices, in the dtype it is stored in."""
    if sharding is None:
        return jax.device_put(_read(files, tensor, shape, (slice(None),) * len(shape)))
    pieces: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

    def shard(index: keys.Index | None) -> np.ndarray:
        assert index is not None
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        if bounds not in pieces:  # replicas share a piece
            pieces[bounds] = _read(files, tensor, shape, index)
        return pieces[bounds]

    return jax.make_array_from_callback(shape, sharding, shard)


def _read(files: CheckpointFiles, tensor: keys.Tensor, shape: tuple[int, ...], index: keys.Index) -> np.ndarray:
    """Our slice `index` of one tensor, in the dtype it is stored in; a few megabytes of the file at a time."""
    layout, file = tensor.layout, files.file(tensor.name)
    hf_index = layout.hf_index(index, shape)
    sizes = [stop - start for start, stop in (part.indices(size)[:2] for part, size in zip(index, shape, strict=True))]
    result = _aligned_empty(sizes, file.dtype(tensor.name))
    # ours, along which the rows of the file run; in whole heads where it is merged with head_dim
    axis = layout.order[0]
    inner = shape[layout.order[1]] if layout.merged == 0 else 1
    row_bytes = result.itemsize * int(np.prod(files.shape(tensor.name)[1:]))
    step = max(1, PIECE // (row_bytes * inner)) * inner
    for start in range(hf_index[0].start, hf_index[0].stop, step):
        stop = min(start + step, hf_index[0].stop)
        rows = file.rows(tensor.name, start, stop)[(slice(None), *hf_index[1:])]
        done = slice((start - hf_index[0].start) // inner, (stop - hf_index[0].start) // inner)
        part = result[(slice(None),) * axis + (done,)]
        part[...] = layout.from_hf(rows, part.shape)
    return result


def _aligned_empty(shape: list[int], dtype: np.dtype, alignment: int = 64) -> np.ndarray:
    """An array that the CPU backend takes as it is, where it would copy one of numpy's own alignment."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size].view(dtype).reshape(shape)
