"""Damaged JSON values are named by their key."""

from collections.abc import Callable
from typing import Any

import pytest

from cprec_jax.checked_json import Damaged, items, mapping, number, text


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (mapping, [], "sets is no mapping"),
        (items, {}, "sets is no list"),
        (text, 3, "sets is no text"),
        (number, True, "sets is no number"),
        (number, float("nan"), "sets is nan"),
        *((check, None, "sets is missing") for check in (mapping, items, text, number)),
    ],
)
def test_what_is_of_another_kind_is_named(check: Callable[[Any, str], Any], value: Any, message: str) -> None:
    with pytest.raises(Damaged, match=f"^{message}$"):
        check(value, "sets")


def test_what_is_as_expected_comes_back() -> None:
    assert mapping({"a": 1}, "") == {"a": 1} and items([1], "") == [1] and text("a", "") == "a"
    assert number(2, "") == 2.0
