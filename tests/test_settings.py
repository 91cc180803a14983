"""What `launch.py JOB --help` says of a section."""

from dataclasses import dataclass, field
from typing import Any

from cprec_jax.settings import describe


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Where the inner keys are explained."""

    depth: int = 2


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rule: str = "trie"
    inner: int | Inner = Inner()
    table: dict[str, Any] = field(default_factory=dict)


def test_every_key_has_its_default_and_nested_sections_follow() -> None:
    assert describe(Outer, "config.outer").splitlines() == [
        "config.outer",
        "  --config.outer.name=...",
        "  --config.outer.rule=trie",
        "  --config.outer.table={}",
        "",
        "config.outer.inner",
        "  Where the inner keys are explained.",
        "  --config.outer.inner.depth=2",
    ]
