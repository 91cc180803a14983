"""`cpt` and `sft` of a run: the loss, and what only one stage has."""

import math
from dataclasses import dataclass
from typing import Literal

from cprec_jax.config.setting import setting

ADAPTIVE: Literal["adaptive"] = "adaptive"


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec:
    """The loss of a run."""

    objective: Literal["language-model", "catalogue"] = setting(
        "language-model",
        "the loss: nats per token, or catalogue: nats per item over the titles of its set alone, as `evaluate` ranks",
    )
    lm_weight: float = setting(0.0, "catalogue: how much of the language-model loss of the same documents is added")
    loss_temperature: float | tuple[float, ...] | Literal["adaptive"] = setting(
        1.0, "catalogue: divides logits: a number, one per depth of branching (the last goes on), or adaptive (MSL)"
    )

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lm_weight) and self.lm_weight >= 0):
            raise ValueError(f"lm_weight {self.lm_weight} must not be negative")
        temperatures = self.loss_temperature if isinstance(self.loss_temperature, tuple) else (self.loss_temperature,)
        if not temperatures or not all(value == ADAPTIVE or 0 < float(value) < math.inf for value in temperatures):
            raise ValueError(f"loss_temperature {self.loss_temperature} must be above 0 and finite")
        if self.objective != "catalogue" and (self.lm_weight, self.loss_temperature) != (0.0, 1.0):
            raise ValueError("lm_weight and loss_temperature belong to the objective 'catalogue'")


@dataclass(frozen=True, kw_only=True)
class CptSpec(ObjectiveSpec):
    """Continual pre-training. Under the objective `catalogue` rows without items (general text) count by `lm_weight`
    alone."""


@dataclass(frozen=True, kw_only=True)
class SftSpec(ObjectiveSpec):
    """Fine-tuning."""

    targets: Literal["all", "last"] = setting(
        "all",
        "all: a sequence is one document, with a loss on every next item; last: a document per prefix, with a loss on "
        "its last item",
    )
    users: float = setting(
        1.0, "share of the users, a choice by config.pack.seed; a smaller share is part of a larger one"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.users <= 1:
            raise ValueError(f"users {self.users} must lie in (0, 1]")
