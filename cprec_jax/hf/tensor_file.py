"""One safetensors file, read and written piece by piece.

The format is eight bytes of length, a JSON header, and the tensors' bytes one after another. The safetensors library
checks every file that is opened here, but the bytes go through plain reads and writes: its memory map counts every page
it touched as memory of the process until the file is closed, and its writer wants all tensors of a file at once.
"""

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from cprec_jax.errors import UserError, one_line
from cprec_jax.json_object import keys_once

DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}
_KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
PIECE = 8 * 2**20  # bytes read at a time


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor of a file: its kind as safetensors names it, its shape, and where its bytes begin in the file."""

    kind: str
    shape: tuple[int, ...]
    start: int


class TensorFile:
    """A file opened for reading. Raises `UserError` when it is absent, damaged or truncated."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with safe_open(path, framework="numpy"):  # refuses a header that does not fit the file's length
                pass
            with open(path, "rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                # safetensors takes a tensor's name twice
                header = json.loads(stream.read(length), object_pairs_hook=keys_once)
        except FileNotFoundError:
            raise UserError(f"{path}: not found, but the index names it; download the checkpoint again") from None
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{path}: damaged or truncated ({one_line(error)}); download the checkpoint again"
            ) from error
        self.entries = {
            name: Entry(kind=value["dtype"], shape=tuple(value["shape"]), start=8 + length + value["data_offsets"][0])
            for name, value in header.items()
            if name != "__metadata__"
        }

    def dtype(self, name: str) -> np.dtype:
        """float32, bfloat16 or float16; any other -> `UserError`."""
        kind = self.entries[name].kind
        if kind not in DTYPES:
            raise UserError(f"{self.path}: tensor {name} is {kind}; supported: {', '.join(DTYPES)}")
        return DTYPES[kind]

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) along the first axis of a tensor, in its own dtype; only these bytes are read."""
        entry, dtype = self.entries[name], self.dtype(name)
        row = dtype.itemsize * int(np.prod(entry.shape[1:]))
        buffer = np.empty((stop - start) * row, np.uint8)
        with open(self.path, "rb", buffering=0) as stream:
            stream.seek(entry.start + start * row)
            view, done = buffer.data, 0
            while done < len(view):
                count = stream.readinto(view[done:])
                if not count:
                    raise UserError(f"{self.path}: ends inside tensor {name}; it was changed while it was read")
                done += count
        return buffer.view(dtype).reshape(stop - start, *entry.shape[1:])


def write(path: Path, tensors: Sequence[tuple[str, np.dtype, tuple[int, ...]]], arrays: Iterable[np.ndarray]) -> None:
    """Write a file of `tensors` (name, dtype, shape), whose `arrays` come one by one in the same order, and read it
    back.

    Raises `OSError` when what is on the disk afterwards is not what was written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + dtype.itemsize * int(np.prod(shape))
        header[name] = {"dtype": _KINDS[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        crc = 0
        for (name, dtype, shape), array in zip(tensors, arrays, strict=True):
            assert array.dtype == dtype and array.shape == shape and array.flags.c_contiguous, name
            data = array.reshape(-1).view(np.uint8).data
            crc = zlib.crc32(data, crc)
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    if _crc(path, 8 + len(text)) != crc or TensorFile(path).entries.keys() != header.keys() - {"__metadata__"}:
        raise OSError(f"{path}: read back differently; is the disk sound?")


def _crc(path: Path, start: int) -> int:
    crc = 0
    with open(path, "rb", buffering=0) as stream:
        stream.seek(start)
        while piece := stream.read(PIECE):
            crc = zlib.crc32(piece, crc)
    return crc
