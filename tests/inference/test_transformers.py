"""Greedy text through the cache equals transformers' token for token, in every family."""

import numpy as np
import pytest

from cprec_jax.hf.load import load_params, read_config
from cprec_jax.inference.generate import generate
from cprec_jax.jobs.making.model_source import end_ids
from cprec_jax.model.decoder import Decoder
from tests.hf.families import FAMILIES, checkpoint, torch_model

pytestmark = pytest.mark.torch

NEW = 24  # beyond every window, and beyond the original context of the scaled variants


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_token_for_token(family, tmp_path):
    torch = pytest.importorskip("torch")
    model = torch_model(family)
    directory = checkpoint(family, tmp_path / family)
    config = read_config(directory)
    prompts = [np.array(tokens, np.int32) for tokens in ([5, 17, 60, 33], [9, 40], list(range(3, 22)))]
    ends = end_ids(directory)
    found = generate(Decoder(config), load_params(directory, config), prompts, new_tokens=NEW, end_ids=ends, batch=3)
    for prompt, tokens in zip(prompts, found, strict=True):
        theirs = model.generate(torch.tensor(prompt[None].astype(np.int64)), max_new_tokens=NEW, do_sample=False)[
            0, len(prompt) :
        ]
        np.testing.assert_array_equal(tokens, theirs.numpy())
    assert ends == (2,)
