"""The tensors of a Hugging Face directory, wherever they lie: one safetensors file, or shards with an index. Never a
pickle."""

from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax.errors import UserError
from cprec_jax.hf.keys import few
from cprec_jax.hf.tensor_file import TensorFile
from cprec_jax.json_object import read_object
from cprec_jax.progress import say

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_passed_over: set[Path] = set()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; absent, broken, or with one key twice -> `UserError`."""
    try:
        return read_object(path, once=True)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; a Hugging Face model directory needs it") from None


def refuse_adapter(directory: Path) -> None:
    """A PEFT adapter where a whole model is wanted is a `UserError`: its base model without it is another model
    (`hf/adapter.py`)."""
    if (directory / ADAPTER).exists():
        raise UserError(
            f"{directory / ADAPTER}: a PEFT adapter, where the files of a whole model are wanted; merge it into its "
            "base model (PEFT's "
            "merge_and_unload) and give that directory"
        )


class CheckpointFiles:
    """The safetensors files of one directory. Raises `UserError` for absent, truncated or contradicting files."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._files: dict[str, TensorFile] = {}
        self._file_of: dict[str, str] = {}
        listed = self._listed()
        for file in sorted(set(listed.values())) if listed is not None else [SINGLE]:
            self._open(file)
        if listed is not None:
            wrong = {
                name for name in listed.keys() | self._file_of.keys() if listed.get(name) != self._file_of.get(name)
            }
            if wrong:
                raise UserError(
                    f"{directory / INDEX}: index and files disagree about {few(wrong)}; download the checkpoint again"
                )

    def _listed(self) -> dict[str, str] | None:
        """Tensor -> file as the index says; None for a single file, which transformers prefers where there are both."""
        refuse_adapter(self.directory)
        if (self.directory / SINGLE).exists():
            self._say_what_is_left_over()
            return None
        if (self.directory / INDEX).exists():
            weight_map = read_json(self.directory / INDEX).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise UserError(f"{self.directory / INDEX}: has no weight_map; download the checkpoint again")
            outside = {
                str(file) for file in weight_map.values() if not isinstance(file, str) or Path(file).name != file
            }
            if outside:
                raise UserError(f"{self.directory / INDEX}: names files outside its directory: {few(outside)}")
            return weight_map
        if not self.directory.is_dir():
            raise UserError(f"{self.directory}: no such directory; give a Hugging Face model directory")
        if any(self.directory.glob("pytorch_model*.bin")):
            raise UserError(
                f"{self.directory}: has only pytorch_model.bin (a pickle, which can run code); convert it to "
                "safetensors first"
            )
        raise UserError(f"{self.directory}: has neither {SINGLE} nor {INDEX}")

    def _say_what_is_left_over(self) -> None:
        if (self.directory / INDEX).exists() and self.directory not in _passed_over:
            _passed_over.add(self.directory)
            say(
                f"{self.directory}: {SINGLE} is read, as transformers does; {INDEX} and the files it names are passed "
                "over"
            )

    def _open(self, file: str) -> None:
        opened = TensorFile(self.directory / file)
        twice = self._file_of.keys() & opened.entries.keys()
        if twice:
            raise UserError(
                f"{opened.path}: holds tensors that another file of the checkpoint holds, too: {few(twice)}"
            )
        self._files[file] = opened
        self._file_of |= dict.fromkeys(opened.entries, file)

    @property
    def names(self) -> set[str]:
        return set(self._file_of)

    def file(self, name: str) -> TensorFile:
        """The file that holds a tensor."""
        return self._files[self._file_of[name]]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.file(name).entries[name].shape

    def dtype(self, name: str) -> np.dtype:
        """float32, bfloat16 or float16; any other -> `UserError`."""
        return self.file(name).dtype(name)

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A slice of a tensor, in its own dtype."""
        start, stop, _ = index[0].indices(self.shape(name)[0])
        return self.file(name).rows(name, start, stop)[(slice(None), *index[1:])]
