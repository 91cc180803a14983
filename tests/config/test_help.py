"""What `launch.py JOB --help` says of a section."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from cprec_jax.config.help import describe
from cprec_jax.config.root import section_classes
from cprec_jax.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Where the inner keys are explained."""

    depth: int = 2


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = setting(help="how it is called")
    rule: str = setting("trie", "which of them")
    inner: int | Inner = setting(Inner(), "one number, or several")
    table: dict[str, Any] = field(default_factory=dict)
    many: dict[str, Inner] = setting(factory=dict, help="by name")
    only: Inner = setting(factory=Inner, help="the one")


def test_every_key_has_one_line_with_its_default_and_nested_sections_follow() -> None:
    assert describe(Outer, "config.outer").splitlines() == [
        "config.outer",
        "  --config.outer.name=...   how it is called",
        "  --config.outer.rule=trie  which of them",
        "  --config.outer.inner={}   one number, or several",
        "  --config.outer.table={}",
        "  --config.outer.many={}    by name",
        "",
        "config.outer.inner: one number, or several",
        "  Where the inner keys are explained.",
        "  --config.outer.inner.depth=2",
        "",
        "config.outer.many.NAME: by name",
        "  Where the inner keys are explained.",
        "  --config.outer.many.NAME.depth=2",
        "",
        "config.outer.only: the one",
        "  Where the inner keys are explained.",
        "  --config.outer.only.depth=2",
    ]


@pytest.mark.parametrize("name", sorted(section_classes()))
def test_every_setting_of_the_project_has_its_line(name: str) -> None:
    for line in describe(section_classes()[name], f"config.{name}").splitlines():
        if line.startswith("  --config."):
            assert len(line.split("  ", 2)[-1].split("  ", 1)[-1].strip()) >= 5 and "  " in line.strip(), line
