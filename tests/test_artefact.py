import errno
import json
import os
from pathlib import Path

import pytest

from cprec_jax import artefact
from cprec_jax.artefact import HOST
from cprec_jax.errors import UserError


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    with artefact.new_directory(tmp_path / "a" / "b") as directory:
        (directory / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "x").read_text() == "1"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_a_failure_leaves_the_one_before(tmp_path: Path) -> None:
    final = tmp_path / "b"
    with artefact.new_directory(final) as directory:
        (directory / "x").write_text("old")
    with pytest.raises(RuntimeError), artefact.new_directory(final) as directory:
        (directory / "x").write_text("half")
        raise RuntimeError
    assert (final / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


DEAD = 999_999_999  # beyond the largest number of a process


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    (tmp_path / f".b.{HOST}.{DEAD}.tmp").mkdir()
    (tmp_path / f".b.{HOST}.{os.getpid()}.tmp").mkdir()  # of an earlier process with our number
    with artefact.new_directory(tmp_path / "b"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_what_others_are_writing_is_left_alone(tmp_path: Path) -> None:
    """A living process's folder, that of another artefact whose name begins alike, and that of another host."""
    others = [
        tmp_path / f".b.{HOST}.{os.getppid()}.tmp",
        tmp_path / f".b.c.{HOST}.{DEAD}.tmp",
        tmp_path / f".b.elsewhere.{DEAD}.tmp",
    ]
    for other in others:
        other.mkdir()
    with artefact.new_directory(tmp_path / "b"):
        pass
    assert all(other.is_dir() for other in others)


def test_the_one_that_ends_last_stays(tmp_path: Path) -> None:
    final = tmp_path / "b"
    with artefact.new_directory(final) as directory:
        (directory / "x").write_text("mine")
        final.mkdir()  # of another process that was quicker
        (final / "y").write_text("its")
    assert [p.name for p in final.iterdir()] == ["x"] and list(tmp_path.iterdir()) == [final]


def test_what_a_kill_had_moved_away_comes_back(tmp_path: Path) -> None:
    """Killed between moving the previous one away and putting the new one in its place."""
    for name in ("old.tmp", "tmp"):
        (tmp_path / f".b.{HOST}.{DEAD}.{name}").mkdir()
        (tmp_path / f".b.{HOST}.{DEAD}.{name}" / "x").write_text(name)
    with pytest.raises(RuntimeError), artefact.new_directory(tmp_path / "b"):
        raise RuntimeError
    assert (tmp_path / "b" / "x").read_text() == "old.tmp"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the disk is full"), artefact.new_directory(tmp_path / "b"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_says_what_it_was_made_from_and_how_large_its_files_are(tmp_path: Path) -> None:
    assert artefact.read_manifest(tmp_path) is None
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "data").write_bytes(b"12345")
    artefact.write_manifest(tmp_path, {"a": [1, 2]}, {"rows_hash": "x"})
    found = artefact.read_manifest(tmp_path)
    assert found == {
        "version": 1,
        "inputs_hash": artefact.fingerprint({"a": (1, 2)}),
        "made_from": {"a": [1, 2]},
        "rows_hash": "x",
        "file_sizes": {"below/data": 5},
    }
    (tmp_path / artefact.MANIFEST).write_text("{")
    with pytest.raises(UserError, match=r"manifest.json: damaged"):
        artefact.read_manifest(tmp_path)


def test_json_is_read_or_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run `launch\.py pack`"):
        artefact.read_json(tmp_path / "m.json", "pack")
    (tmp_path / "m.json").write_text("[1,")
    with pytest.raises(UserError, match="damaged"):
        artefact.read_json(tmp_path / "m.json", "pack")
    artefact.write_json(tmp_path / "m.json", {"título": "ñ"})
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == {"título": "ñ"}
    with pytest.raises(UserError, match="cannot be read"):
        artefact.file_sha256(tmp_path / "none")
