"""Popularity: how often an item occurs in the training period, the same for every user."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.method import Scored, user_batches


class Popularity:
    """Ranked by training interactions; probabilities are add-one smoothed: (count + 1) / (all interactions + N)."""

    def score(self, data: EvalSet) -> Iterator[Scored]:
        count = data.train_count.astype(np.float64)
        log_probs = np.log((count + 1) / (count.sum() + len(count)))
        for users in user_batches(len(data)):
            shape = (len(users), len(count))
            yield Scored(users=users, scores=np.broadcast_to(count, shape), log_probs=np.broadcast_to(log_probs, shape))

    def facts(self) -> dict[str, Any]:
        return {}
