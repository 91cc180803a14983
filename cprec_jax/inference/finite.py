"""Scores must be finite before anything is ranked by them."""

import numpy as np

from cprec_jax.errors import UserError


def check_finite(scores_BN: np.ndarray, who: str) -> None:
    """Refuse NaN and infinite scores, which would be ranked silently: NaN is never better, so the target looks perfect.

    who: whose scores they are, for the message of the `UserError`.
    """
    bad = ~np.isfinite(scores_BN)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"{who}: score {scores_BN[row, column]} for candidate {column} of user {row} in the batch; scores must be "
            "finite"
        )
