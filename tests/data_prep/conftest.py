from pathlib import Path

import pytest

from cprec_jax.corpus import Corpus
from tests.run_jobs import prepare


@pytest.fixture(scope="session")
def synthetic_config() -> dict:
    """The default world: three domains to pre-train on and one unseen."""
    roles = {"beauty": "pretrain", "toys": "pretrain", "kitchen": "pretrain", "garden": "downstream"}
    return {
        "corpus": {
            "sources": {name: {"role": role, "adapter": "synthetic"} for name, role in roles.items()},
            "k_core": 0,
        }
    }


@pytest.fixture(scope="session")
def synthetic_corpus(synthetic_config, tmp_path_factory) -> Corpus:
    workdir: Path = tmp_path_factory.mktemp("synthetic")
    prepare(synthetic_config, workdir)
    return Corpus.open(workdir / "corpus")
