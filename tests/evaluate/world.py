"""Settings and helpers of the tests that run the job `evaluate` on a tiny model."""

import dataclasses
from typing import Any

import numpy as np

from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.eval_set import open_set
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.train.open import LoadedModel
from tests.inference.titles import by_brute_force

EVALUATE: dict[str, Any] = {
    "names": {"model": {"kind": "checkpoint"}},
    "sets": ("Books",),
    "protocols": ("full", "u20"),
    "temperature": 1.0,
    "max_users": 12,
    "prompt_tokens": 40,
    "bootstrap": 20,
    "devices": 1,
}


def column(ranks: Any, name: str, protocol: str = "full") -> np.ndarray:
    return ranks.filter(np.asarray(ranks["protocol"].to_pylist()) == protocol)[name].to_numpy()


def with_twins(model: LoadedModel, corpus: Corpus) -> LoadedModel:
    """Every second title of Books has the tokens of the one before it."""
    tokens = [model.catalogue.item(item) for item in range(len(model.catalogue))]
    for first, second in zip(corpus.catalogue("Books")[::2], corpus.catalogue("Books")[1::2], strict=True):
        tokens[second] = tokens[first]
    alike = Catalogue(tokens=np.concatenate(tokens), offsets=np.cumsum([0, *map(len, tokens)]), unknown_tokens=0)
    return dataclasses.replace(model, catalogue=alike)


def brute(model: LoadedModel, corpus: Corpus, users: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Scores float64[users, N] by the rules `trie` and `sum` for the first users of the set, one sequence a title."""
    data = open_set(corpus, "Books", "test", ("full", "u20"), True, EVALUATE["max_users"], 0)
    titles = [tuple(int(t) for t in model.catalogue.item(i)) for i in data.items]
    trie, total = [], []
    for user in range(users):
        history = data.targets.items[data.targets.offsets[user] : data.targets.offsets[user + 1]]
        prompt = model.template.prompt("Books", history, model.catalogue, EVALUATE["prompt_tokens"]).tokens
        a, b = by_brute_force(model.decoder, model.params, prompt, titles, end=None)
        trie.append(a)
        total.append(b)
    return np.stack(trie), np.stack(total), data
