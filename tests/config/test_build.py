from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest

from cprec_jax.config.build import build, nearest
from cprec_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    shape: Literal["linear", "sqrt"] = "sqrt"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    steps: int | None = None
    sizes: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    weights: Mapping[str, float] = field(default_factory=dict)
    shuffle: bool = True
    limit: float | Literal["auto"] = "auto"
    rule: Literal["first", "last"] | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        if self.steps == 0:
            raise ValueError("steps must be at least 1")


def test_nested_sections_become_typed_values() -> None:
    section = {
        "name": "x",
        "steps": 3,
        "sizes": [1, 2],
        "inner": {"rate": 1},
        "weights": {"a": 2},
        "limit": 2,
        "rule": "last",
    }
    built = build(Outer, section, "config.outer")
    assert built == Outer(
        name="x", steps=3, sizes=(1, 2), inner=Inner(rate=1.0), weights={"a": 2.0}, limit=2.0, rule="last"
    )
    assert isinstance(built.inner.rate, float) and isinstance(built.limit, float)
    assert build(Outer, {"name": "x", "steps": None}, "c").limit == "auto"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "config.outer.name: missing"),
        ({"name": "x", "stepps": 1}, "config.outer.stepps: unknown key; did you mean 'steps'?"),
        ({"name": "x", "zzz": 1}, "config.outer.zzz: unknown key; known: "),
        ({"name": 3}, "config.outer.name: expected str, got int 3"),
        ({"name": "x", "steps": 1.5}, "config.outer.steps: expected int, got float 1.5"),
        ({"name": "x", "steps": True}, "config.outer.steps: expected int, got bool True"),
        ({"name": "x", "shuffle": 1}, "config.outer.shuffle: expected bool, got int 1"),
        ({"name": "x", "sizes": [1, "b"]}, r"config.outer.sizes\[1\]: expected int, got str 'b'"),
        ({"name": "x", "sizes": "1,2"}, "config.outer.sizes: expected a tuple such as"),
        (
            {"name": "x", "inner": {"shape": "round"}},
            "config.outer.inner.shape: 'round' is not one of 'linear', 'sqrt'",
        ),
        ({"name": "x", "inner": 3}, "config.outer.inner: expected a section with the keys rate, shape"),
        ({"name": "x", "weights": {"a": "b"}}, "config.outer.weights.a: expected float"),
        ({"name": "x", "limit": "none"}, "config.outer.limit: 'none' is not one of 'auto', nor float"),
        ({"name": "x", "rule": "none"}, "config.outer.rule: 'none' is not one of 'first', 'last', 'auto'$"),
        ({"name": "x", "steps": 0}, "config.outer: steps must be at least 1"),
    ],
)
def test_mistakes_name_the_key(section: dict, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?").replace("(", r"\(")):
        build(Outer, section, "config.outer")


def test_nearest() -> None:
    assert nearest("stpes", ["steps", "seed"]) == "; did you mean 'steps'?"
    assert nearest("qqq", ["b", "a"]) == "; known: a, b"
