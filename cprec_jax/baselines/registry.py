"""Baselines by the names they have in `config.evaluate.names`."""

from collections.abc import Mapping

from cprec_jax.baselines.counting import Counted, Counter, DecayedPopularity, ItemKNN, LastItems, Markov, PlainPopularity
from cprec_jax.config.evaluate import MethodSpec
from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.methods import Method
from cprec_jax.evaluate.sets import EvalSet

COUNTERS: dict[str, type[Counter]] = {
    "popularity": PlainPopularity,
    "popularity_decayed": DecayedPopularity,
    "last_items": LastItems,
    "markov": Markov,
    "item_knn": ItemKNN,
}


def is_tuned(spec: MethodSpec) -> bool:
    """Whether `make_baseline` makes it, and it looks at the validation split. Popularity of the training period needs no choice."""
    return spec.kind in COUNTERS and (spec.kind, spec.fit) != ("popularity", "train")


def make_baseline(spec: MethodSpec, corpus: Corpus, validation: Mapping[str, EvalSet]) -> Method:
    """The baseline behind a spec that `is_tuned`."""
    return Counted(COUNTERS[spec.kind](), corpus, validation, spec.fit)
