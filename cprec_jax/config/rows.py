"""Which rows a run reads: those of pre-training, or one of the ways to lay out those of fine-tuning."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RowsKind:
    """targets, users: see `SftSpec`; of pre-training they have their defaults."""

    stage: Literal["cpt", "sft"]
    targets: Literal["all", "last"] = "all"
    users: float = 1.0

    @property
    def name(self) -> str:
        """Its directory in WORKDIR/rows: `cpt`, `sft`, `sft-last`, `sft-0.1` (of the users), `sft-last-0.1`."""
        return "-".join(
            [
                self.stage,
                *(["last"] if self.targets == "last" else []),
                *([f"{self.users:g}"] if self.users < 1 else []),
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What one run reads: rows of a kind, of fine-tuning those of `sets` alone."""

    kind: RowsKind = RowsKind(stage="cpt")
    sets: tuple[str, ...] = ()
