"""A copy is whole or is none, behind whatever address."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cprec_jax.train.copies import CONTENTS, Copies, DamagedCopy
from tests.train.bucket import ADDRESS, Bucket, stand_in

FILES = {"a": b"first", "deep/b": b"", "deep/c": bytes(range(256)) * 99}


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    with stand_in(tmp_path / "bucket") as bucket:
        yield bucket


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        (tmp_path / "directory" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "directory" / name).write_bytes(data)
    return tmp_path / "directory"


@pytest.fixture
def objects(bucket: Bucket) -> Path:
    return bucket.folder / "bucket/copies"


@pytest.mark.parametrize("kind", ["bucket", "path"])
def test_files_come_back_and_facts_with_them(kind: str, bucket: Bucket, directory: Path, tmp_path: Path) -> None:
    copies = Copies(ADDRESS if kind == "bucket" else str(tmp_path / "mounted"))
    assert copies.names() == [] and copies.contents() == {}
    assert copies.write("12", directory, FILES, {"step": 12})
    contents = copies.contents()
    assert list(contents) == copies.names() == ["12"] and contents["12"]["step"] == 12
    copies.read("12", contents["12"], tmp_path / "back")
    assert {name: (tmp_path / "back" / name).read_bytes() for name in FILES} == FILES
    copies.remove("12")
    copies.remove("12")
    assert copies.names() == []


def test_the_list_is_written_last_and_removed_first(bucket: Bucket, directory: Path, objects: Path) -> None:
    copies = Copies(ADDRESS)
    copies.write("12", directory, FILES, {})
    assert bucket.written == [f"{ADDRESS}/12/{name}" for name in (*FILES, CONTENTS)]

    def refuse(path: str) -> None:
        raise OSError("no")

    bucket.refuses = refuse
    with pytest.raises(OSError, match="no"):
        copies.write("12", directory, FILES, {})
    bucket.refuses = lambda path: None
    assert copies.contents() == {}


def test_what_changed_while_it_was_copied_is_no_copy(bucket: Bucket, directory: Path) -> None:
    copies = Copies(ADDRESS)
    assert not copies.write("12", directory, FILES, {}, lambda: False)
    assert copies.names() == []


@pytest.mark.parametrize("left", [None, b"", b"{", b"[]", b'{"version": 1}', b'{"version": 2, "files": {}}'])
def test_without_a_whole_list_it_is_none(left: bytes | None, bucket: Bucket, directory: Path, objects: Path) -> None:
    copies = Copies(ADDRESS)
    copies.write("12", directory, FILES, {})
    (objects / "12" / CONTENTS).unlink()
    if left is not None:
        (objects / "12" / CONTENTS).write_bytes(left)
    assert copies.contents() == {} and copies.names() == ["12"]


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_file_is_noticed(damage: str, bucket: Bucket, directory: Path, objects: Path, tmp_path: Path) -> None:
    copies = Copies(ADDRESS)
    copies.write("12", directory, FILES, {})
    file = objects / "12/deep/c"
    file.write_bytes({"cut": FILES["deep/c"][:-1], "changed": b"x" + FILES["deep/c"][1:], "missing": b""}[damage])
    if damage == "missing":
        file.unlink()
    with pytest.raises(DamagedCopy, match="is missing" if damage == "missing" else "deep/c is not as it was"):
        copies.read("12", copies.contents()["12"], tmp_path / "back")


@pytest.mark.parametrize("name", ["../x", "/x", "deep/../../x"])
def test_a_list_names_files_inside_alone(
    name: str, bucket: Bucket, directory: Path, objects: Path, tmp_path: Path
) -> None:
    copies = Copies(ADDRESS)
    copies.write("12", directory, FILES, {})
    contents = json.loads((objects / "12" / CONTENTS).read_text())
    contents["files"] = {name: contents["files"]["a"]}
    with pytest.raises(DamagedCopy, match="leads out of it"):
        copies.read("12", contents, tmp_path / "back")


def test_an_address_that_does_not_answer_is_not_an_empty_one(bucket: Bucket) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    bucket.refuses = refuse
    with pytest.raises(PermissionError):
        Copies(ADDRESS).contents()
