"""The NLL or NDCG@10 of the checkpoints of a run on validation users, by the same exact ranking as `evaluate`."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

from cprec_jax.config.evaluate import EvaluateSpec, MethodSpec
from cprec_jax.config.root import Config
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate.collect import collect
from cprec_jax.evaluate.eval_set import EvalSet, open_validation
from cprec_jax.evaluate.metrics import per_user
from cprec_jax.evaluate.pieces import FULL
from cprec_jax.methods.title_model import TitleModel
from cprec_jax.progress import say
from cprec_jax.train.open import LoadedModel, checkpoint_steps, load_model
from cprec_jax.workdir import corpus_directory

Measure = Literal["nll", "ndcg@10"]


def values_by_step(
    config: Config,
    workdir: Path,
    directory: Path,
    measure: Measure,
    sets: Sequence[str] | None = None,
    steps: Collection[int] | None = None,
) -> dict[int, float]:
    """The measure of each checkpoint of the run `directory`, by its step.

    Args:
      measure: the NLL of the validation targets, less is better, or their NDCG@10, more is better; the mean over sets.
      sets: whose users; None: those that `config.evaluate` names, or all.
      steps: which checkpoints; None: all but step 0.
    """
    spec = ranking_spec(config)
    corpus = Corpus.open(corpus_directory(workdir))
    validation = open_validation_sets(corpus, spec, sets)
    if not validation:
        raise UserError(
            f"{corpus.path}: no set has validation users, so no checkpoint can be chosen; use select = 'last'"
        )

    def load(step: int) -> LoadedModel:
        method = MethodSpec(kind="checkpoint", step=step)
        return load_model(method, config.text.template, workdir, corpus, directory)

    return of_checkpoints(directory, load, measure, spec, validation, steps)


def ranking_spec(config: Config) -> EvaluateSpec:
    """`config.evaluate` as checkpoints of one run are compared: exactly, over the whole catalogue."""
    return dataclasses.replace(config.evaluate, rule="trie", ranks_to=None, beam=None, leak_probe=None)


def open_validation_sets(corpus: Corpus, spec: EvaluateSpec, sets: Sequence[str] | None) -> dict[str, EvalSet]:
    """Those that have validation users, of `sets`; None: of those that `config.evaluate` names, or of all."""
    opened = {name: open_validation(corpus, spec, name) for name in sets or spec.sets or corpus.sets}
    return {name: data for name, data in opened.items() if len(data)}


def of_checkpoints(
    directory: Path,
    load: Callable[[int], LoadedModel],
    measure: Measure,
    spec: EvaluateSpec,
    validation: dict[str, EvalSet],
    steps: Collection[int] | None = None,
) -> dict[int, float]:
    """`values_by_step` of opened sets. load: gives the model of a step."""
    values: dict[int, float] = {}
    for step in checkpoint_steps(directory):
        if steps is not None and step not in steps:
            continue
        method = TitleModel(load(step), spec, validation)
        values[step] = method.validation_nll() if measure == "nll" else ndcg(method, validation)
        say(f"evaluate: step {step}: {'NLL' if measure == 'nll' else 'NDCG@10'} {values[step]:.4f} on validation")
    return values


def ndcg(method: TitleModel, validation: dict[str, EvalSet]) -> float:
    """NDCG@10 of the validation targets among the whole catalogue, mean over sets."""
    values = []
    for name, data in validation.items():
        ranks = collect(method, data, name)
        values.append(float(per_user(ranks.n_better[FULL], ranks.n_tied[FULL])["ndcg@10"].mean()))
    return sum(values) / len(values)
