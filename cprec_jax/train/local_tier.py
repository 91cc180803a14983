"""The near tier of checkpoints: every process writes its own shards to a disk of its own host, often and quickly,
between the durable ones.

One file per process and step: a JSON header with the length of the line before it, the bytes of all shards, and their
SHA-256. It is read back only into the same shardings and number of processes. What counts is the newest step that every
process has whole.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.artefact import fingerprint
from cprec_jax.parallel import processes
from cprec_jax.progress import say
from cprec_jax.train.leaves import by_name
from cprec_jax.train.state import TrainState

KEEP = 2
_HASH_BYTES = 32

Index = tuple[tuple[int, int], ...]  # first and last + 1 of each axis


class LocalTier:
    """Checkpoints of one run in DIRECTORY/RUN-HASH/STEP/process-I, of which the newest two stay."""

    def __init__(self, directory: Path, run: Path, inputs_hash: str):
        """directory: on a disk of this host; the run's path and what it is made from say which of its checkpoints are
        meant."""
        self._inputs_hash = inputs_hash
        self._directory = directory / fingerprint([str(run.resolve()), inputs_hash])[:16]
        self._name = f"process-{processes.index()}-of-{processes.count()}"

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Write what this process holds; older ones go."""
        step = int(state.step)
        target = self._directory / str(step) / self._name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{self._name}.tmp")
        with open(temporary, "wb") as file:
            _write(file, {"step": step, "meta": dict(meta)}, _shards(state))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        for old in self._steps()[:-KEEP]:
            self._remove(old)

    def restore_newest(self, abstract: TrainState, above: int) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest step after `above` that all processes hold whole, sharded like `abstract`, and its meta; None:
        there is none."""
        held = processes.of_all([step for step in self._steps() if step > above])
        common = processes.from_first(lambda: sorted(set.intersection(*map(set, held or [[]])), reverse=True))
        for step in common:
            restored = self._restore(step, abstract)
            damaged = isinstance(restored, str)
            if not processes.any_of(damaged):
                assert not isinstance(restored, str)
                return restored
            reason = restored if damaged else "by another process"
            say(f"warning: {self._directory / str(step)} cannot be used ({reason})")
        return None

    def clear(self) -> None:
        """Remove all of the run, whose durable checkpoints go further."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _steps(self) -> list[int]:
        parts = (path for path in self._directory.glob(f"*/{self._name}") if path.parent.name.isdigit())
        return sorted(int(path.parent.name) for path in parts)

    def _remove(self, step: int) -> None:
        (self._directory / str(step) / self._name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process of this host has not removed its own yet
            (self._directory / str(step)).rmdir()

    def _restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | str:
        """What is wrong with it, if it cannot be used."""
        try:
            header, blocks = _read(self._directory / str(step) / self._name)
            leaves = _leaves(abstract)
            if leaves.keys() != {name for name, _ in blocks}:
                return "it has other leaves"
            arrays = {name: _assemble(name, leaf, blocks) for name, leaf in leaves.items()}
        except (OSError, ValueError, LookupError) as error:
            return str(error)[:120] or type(error).__name__
        tree = jax.tree.unflatten(jax.tree.structure((abstract.trained, abstract.opt_state)), list(arrays.values()))
        placed = jax.device_put(jnp.asarray(step, abstract.step.dtype), abstract.step.sharding)
        return TrainState(step=placed, trained=tree[0], opt_state=tree[1]), header["meta"]


def _leaves(state: TrainState) -> dict[str, Any]:
    """The leaves of both trees by name, in the order of the tree."""
    return by_name((state.trained, state.opt_state))


def _index(index: tuple[slice, ...], shape: tuple[int, ...]) -> Index:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _shards(state: TrainState) -> dict[tuple[str, Index], np.ndarray]:
    """What this process's devices hold, each block once."""
    blocks: dict[tuple[str, Index], np.ndarray] = {}
    for name, leaf in _leaves(state).items():
        for shard in leaf.addressable_shards:
            key = (name, _index(shard.index, leaf.shape))
            if key not in blocks:
                blocks[key] = np.asarray(shard.data, order="C")
    return blocks


def _write(file: BinaryIO, facts: Mapping[str, Any], blocks: Mapping[tuple[str, Index], np.ndarray]) -> None:
    described = [
        {"name": name, "index": index, "shape": b.shape, "dtype": b.dtype.name} for (name, index), b in blocks.items()
    ]
    header = json.dumps({**facts, "blocks": described}).encode() + b"\n"
    digest = hashlib.sha256()
    parts: list[bytes | memoryview] = [b"%d\n" % len(header), header]
    parts += [block.reshape(-1).view(np.uint8).data for block in blocks.values()]
    for part in parts:
        digest.update(part)
        file.write(part)
    file.write(digest.digest())


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, Index], np.ndarray]]:
    """The header and the blocks; `ValueError` where not every byte is as it was written."""
    data = path.read_bytes()
    content, digest = memoryview(data)[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{path.name} is damaged")
    begin = data.index(b"\n") + 1
    position = begin + int(data[:begin])
    header = json.loads(data[begin:position])
    blocks = {}
    for block in header["blocks"]:
        dtype, shape = jnp.dtype(block["dtype"]), tuple(block["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        key = (block["name"], tuple((first, last) for first, last in block["index"]))
        blocks[key] = np.frombuffer(content, dtype, count, position).reshape(shape)
        position += count * dtype.itemsize
    return header, blocks


def _assemble(name: str, leaf: jax.ShapeDtypeStruct, blocks: Mapping[tuple[str, Index], np.ndarray]) -> jax.Array:
    """A leaf of the sharding that it had; `LookupError` where it is another."""
    assert leaf.sharding is not None
    local = []
    for device, index in leaf.sharding.addressable_devices_indices_map(leaf.shape).items():
        assert index is not None
        key = (name, _index(index, leaf.shape))
        if key not in blocks or blocks[key].dtype != leaf.dtype:
            raise LookupError(f"{name} was sharded otherwise")
        local.append(jax.device_put(blocks[key], device))
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, local)
