"""What a run in training is worth by a fixed choice of validation users, in the values by which checkpoints are
selected."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cprec_jax.config.root import Config
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.methods.select import ndcg, open_validation_sets, ranking_spec
from cprec_jax.methods.title_model import TitleModel
from cprec_jax.progress import quiet, say
from cprec_jax.train.open import LoadedModel, run_with_params
from cprec_jax.workdir import corpus_directory

NLL, NDCG = "valid_nll", "valid_ndcg@10"


class ValidationProbe:
    """`probe(params)` gives the NLL and the NDCG@10 of the validation targets, means over sets.

    As in `select.values_by_step`, on `config.train.validate_users` users per set at most.
    """

    def __init__(self, config: Config, workdir: Path, directory: Path, sets: Sequence[str] | None):
        """directory: of the run. sets: whose users; None: those that `config.evaluate` names, or all. Without any
        validation users: `UserError`."""
        train = config.train_section
        spec = ranking_spec(config)
        users = min(train.validate_users, spec.validation_users)
        self._spec = dataclasses.replace(spec, validation_users=users, devices=1)
        self._workdir, self._directory = workdir, directory
        self._corpus = Corpus.open(corpus_directory(workdir))
        self._validation = open_validation_sets(self._corpus, self._spec, sets)
        if not self._validation:
            raise UserError(
                f"config.train.validate_every: no set of {self._corpus.path} has validation users; set it to None"
            )
        self._model: LoadedModel | None = None  # without parameters
        sizes = ", ".join(f"{len(data)} of {name}" for name, data in self._validation.items())
        say(f"train: validation users ({sizes}) are ranked every {train.validate_every} steps")

    def __call__(self, params: Any) -> dict[str, float]:
        """params: of the run's model, whole on one device."""
        if self._model is None:
            self._model = run_with_params(self._workdir, self._directory, self._corpus, None)
        with quiet():
            method = TitleModel(dataclasses.replace(self._model, params=params), self._spec, self._validation)
            return {NLL: method.validation_nll(), NDCG: ndcg(method, self._validation)}
