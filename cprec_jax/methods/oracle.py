"""The oracle of a synthetic corpus."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cprec_jax.errors import UserError
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.method import Scored, user_batches


class Oracle:
    """The known next-item distribution of a synthetic corpus: no method can be better in expectation."""

    def score(self, data: EvalSet) -> Iterator[Scored]:
        if data.oracle is None:
            raise UserError(
                f"set {data.name}: the corpus holds no oracle (only synthetic sources have one); leave kind 'oracle' "
                "out"
            )
        for users in user_batches(len(data)):
            probabilities = data.oracle[users].astype(np.float64)
            log_probs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
            yield Scored(users=users, scores=probabilities, log_probs=log_probs)

    def facts(self) -> dict[str, Any]:
        return {}
