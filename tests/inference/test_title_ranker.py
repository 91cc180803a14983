"""Ranking titles for people: a model of NaN has no best title."""

import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.inference.title_ranker import TitleRanker
from cprec_jax.text.catalogue import Catalogue
from tests.inference.titles import ragged
from tests.model.tiny import tiny


@pytest.mark.parametrize("beam", [None, 2])
def test_a_model_of_nan_is_refused(beam: int | None) -> None:
    decoder, params = tiny()
    tokens, offsets = ragged([(1, 3), (1, 4), (2, 3)])
    catalogue = Catalogue(tokens=tokens, offsets=offsets, unknown_tokens=0)
    prompt = np.array([5, 6], np.int32)
    assert np.exp(TitleRanker(decoder, params, catalogue, 1.0, None).log_probs(prompt, 3, [0])).sum() == pytest.approx(
        1, abs=1e-5
    )
    broken = {**params, "final_norm": jnp.full_like(params["final_norm"], jnp.nan)}
    with pytest.raises(UserError, match="finite"):
        TitleRanker(decoder, broken, catalogue, 1.0, beam).log_probs(prompt, 3, [0])
