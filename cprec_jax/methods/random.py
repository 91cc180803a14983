"""The random ranker, in closed form: everything ties, and tied ranks are averaged exactly."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.method import Scored, user_batches


class Random:
    """All items alike; the NLL of every target is log N."""

    def score(self, data: EvalSet) -> Iterator[Scored]:
        for users in user_batches(len(data)):
            scores = np.zeros((len(users), len(data.items)))
            yield Scored(users=users, scores=scores, log_probs=scores - np.log(len(data.items)))

    def facts(self) -> dict[str, Any]:
        return {}
