"""`config.evaluate.sequential`: sizes and the tuned grid of GRU4Rec and SASRec."""

from dataclasses import dataclass

from cprec_jax.spec import at_least_one


@dataclass(frozen=True, kw_only=True)
class SequentialSpec:
    """hidden, layers, heads: width, blocks (GRU layers) and attention heads. max_length: items of a history that are read.

    dropout, learning_rate: every combination is trained with seed 0, and the one with the best NDCG@10 on validation is used for all seeds.
    epochs: at most; training ends after `patience` epochs without a better validation NDCG@10, and the best epoch's parameters are kept.
    batch_targets: next items scored a step, at most. validation_users: of the set's validation users, a seeded choice, for all these
    decisions.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    max_length: int = 50
    dropout: tuple[float, ...] = (0.2, 0.5)
    learning_rate: tuple[float, ...] = (1e-3,)
    weight_decay: float = 0.0
    epochs: int = 40
    patience: int = 3
    batch_targets: int = 512
    validation_users: int = 2000

    def __post_init__(self) -> None:
        at_least_one(self, "hidden", "layers", "heads", "epochs", "patience", "validation_users")
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not divisible by heads {self.heads}")
        if not 2 <= self.max_length <= self.batch_targets:
            raise ValueError(f"max_length {self.max_length} must be at least 2 and at most batch_targets {self.batch_targets}")
        if not self.dropout or not self.learning_rate or not all(0 <= rate < 1 for rate in self.dropout) or min(self.learning_rate) <= 0:
            raise ValueError("dropout and learning_rate need at least one value each; dropout is in [0, 1), a learning rate above 0")
