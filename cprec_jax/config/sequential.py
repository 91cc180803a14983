"""`config.evaluate.sequential`: sizes and the tuned grid of GRU4Rec and SASRec."""

from dataclasses import dataclass

from cprec_jax.config.build import at_least_one
from cprec_jax.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class SequentialSpec:
    """Every combination of `dropout` and `learning_rate` is trained with seed 0; the best by NDCG@10 on validation
    serves all seeds."""

    hidden: int = setting(64, "width")
    layers: int = setting(2, "blocks of SASRec, layers of GRU4Rec")
    heads: int = setting(2, "attention heads")
    max_length: int = setting(50, "items of a history that are read")
    dropout: tuple[float, ...] = setting((0.2, 0.5), "rates that are tried")
    learning_rate: tuple[float, ...] = setting((1e-3,), "learning rates that are tried")
    weight_decay: float = setting(0.0, "decoupled weight decay")
    epochs: int = setting(40, "the most; the parameters of the best epoch are kept")
    patience: int = setting(3, "training ends after so many epochs without a better validation NDCG@10")
    batch_targets: int = setting(512, "next items that are scored per step, at most")
    validation_users: int = setting(2000, "of the set's validation users, a seeded choice, for all these decisions")

    def __post_init__(self) -> None:
        at_least_one(self, "hidden", "layers", "heads", "epochs", "patience", "validation_users")
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not divisible by heads {self.heads}")
        if not 2 <= self.max_length <= self.batch_targets:
            raise ValueError(
                f"max_length {self.max_length} must be at least 2 and at most batch_targets {self.batch_targets}"
            )
        if (
            not self.dropout
            or not self.learning_rate
            or not all(0 <= rate < 1 for rate in self.dropout)
            or min(self.learning_rate) <= 0
        ):
            raise ValueError(
                "dropout and learning_rate need at least one value each; dropout is in [0, 1), a learning rate above 0"
            )
