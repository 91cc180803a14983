"""JSON that others wrote: one line for whatever is wrong with it."""

from pathlib import Path

import pytest

from cprec_jax.errors import UserError
from cprec_jax.json_object import read_object


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
