"""JSON that others wrote or somebody damaged: one line for whatever is wrong with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cprec_jax.errors import UserError
from cprec_jax.json_object import Damaged, items, mapping, number, read_object, text


def test_an_object(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1, "a": {"b": null}}')
    assert read_object(path) == {"a": {"b": None}}
    with pytest.raises(UserError, match=r"config.json: cannot be read \(duplicate keys a\); get it again"):
        read_object(path, "get it again", once=True)
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("content", "message"), [("[1]", "expected a JSON object$"), ('{"a', "cannot be read"), ("", "cannot")]
)
def test_what_is_none(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_object(tmp_path / "config.json")


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
