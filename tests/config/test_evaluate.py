"""Mistakes in `config.evaluate` that no later job could notice."""

from typing import Any

import pytest

from cprec_jax.config.build import build
from cprec_jax.config.evaluate import EvaluateSpec
from cprec_jax.errors import UserError


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            {"kind": "untrained", "step": "validation"},
            "step and fraction belong to the kind 'checkpoint', not to 'untrained'",
        ),
        ({"kind": "random", "fraction": 0.5}, "step and fraction belong to the kind 'checkpoint'"),
        ({"kind": "checkpoint", "step": 3, "fraction": 0.5}, "give step or fraction"),
        ({"kind": "hf"}, "path belongs to"),
        (
            {"kind": "untrained", "path": "runs/other"},
            "path belongs to the kinds 'hf' and 'scores', which need it, and to 'checkpoint'",
        ),
    ],
)
def test_mistakes_in_a_method(method: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(EvaluateSpec, {"names": {"a": method}}, "config.evaluate")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"bootstrap": -5}, "bootstrap -5 must be at least 0"),
        ({"seed": -1}, "seed -1 must be at least 0"),
        ({"temperature": float("inf")}, "temperature inf must be above 0 and finite"),
        ({"temperature": float("nan")}, "temperature nan must be above 0 and finite"),
        ({"temperatures": (1.0, float("nan"))}, "must be above 0 and finite, and at least one"),
        ({"pmi": float("nan")}, "pmi nan .* must be finite"),
        ({"pmi_weights": (0.0, float("inf"))}, "must be finite"),
    ],
)
def test_mistakes_that_would_show_after_hours_of_ranking(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(EvaluateSpec, section, "config.evaluate")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"beam": 10, "rule": "sum"}, "beam 10 belongs to the rule 'trie' with pmi 0"),
        ({"beam": 10, "pmi": 0.5}, "beam 10 belongs to the rule 'trie' with pmi 0"),
        ({"beam": 0}, "beam 0 must be at least 1"),
    ],
)
def test_mistakes_about_the_beam(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(EvaluateSpec, section, "config.evaluate")
