"""`config.export`: how the Hugging Face directory is written."""

import re
from dataclasses import dataclass
from typing import Literal

from cprec_jax.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """A checkpoint as a Hugging Face directory."""

    lora: tuple[Literal["merged", "adapter"], ...] = setting(
        ("merged",),
        "of runs with an adapter: merged (a whole model, NAME), adapter (for PEFT, NAME.adapter), or both",
        affects=(),
    )
    runs: tuple[str, ...] | None = setting(None, "which runs (None: cpt, or the only one)", affects=())
    dtype: Literal["float32", "bfloat16", "float16"] = setting("float32", "of the stored weights")
    step: int | None = setting(None, "which checkpoint (None: the one that the run stands for)")
    max_shard_size: str = setting(
        "4GiB", "from this size of weights on ('500MB', '4GiB') there are several files and an index"
    )

    def __post_init__(self) -> None:
        if not self.lora or len(set(self.lora)) < len(self.lora):
            raise ValueError(f"lora {self.lora}: give 'merged', 'adapter', or both")
        self.shard_bytes  # noqa: B018  (raises where it is no size)

    @property
    def shard_bytes(self) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", self.max_shard_size)
        if match is None or not float(match[1]):
            raise ValueError(f"max_shard_size {self.max_shard_size!r}: write a number and KB, MB, GB, KiB, MiB or GiB")
        return int(float(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))
