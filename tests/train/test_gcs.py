"""Copies through gcsfs itself, over HTTP, to an emulator of Google Cloud Storage on this machine: `make test-gcs`."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cprec_jax.train.copies import CONTENTS, Copies
from tests import road
from tests.processes import free_port
from tests.run_jobs import train
from tests.train.test_trainer import curve, digest

pytestmark = [
    pytest.mark.gcs,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("gcsfs", "gcp_storage_emulator")),
        reason="requirements-gcs.txt and requirements-gcs-test.txt are not installed",
    ),
]


@pytest.fixture(scope="module")
def emulator() -> Iterator[None]:
    from gcp_storage_emulator.server import create_server

    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("EPATH_USE_TF", "false")
        yield
    server.stop()


def test_files_come_back(emulator: None, tmp_path: Path) -> None:
    files = {"empty": b"", "deep/large": bytes(range(256)) * 2**16 * 2}  # 32 MiB: several parts
    for name, data in files.items():
        (tmp_path / "directory" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "directory" / name).write_bytes(data)
    copies = Copies("gs://bucket/files")
    assert copies.names() == []
    for _ in range(2):  # one replaces the other
        assert copies.write("12", tmp_path / "directory", files, {})
    contents = copies.contents()
    copies.read("12", contents["12"], tmp_path / "back")
    assert list(contents) == ["12"] and {name: (tmp_path / "back" / name).read_bytes() for name in files} == files
    copies.remove("12")
    copies.remove("12")
    assert copies.names() == []
    with pytest.raises(FileNotFoundError, match="Bucket does not exist"):
        Copies("gs://absent/files").write("12", tmp_path / "directory", files, {})


def test_a_lost_run_goes_on_from_its_copies(emulator: None, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = road.config(train={"copy_to": "gs://bucket/runs"})
    train(config, workdir)
    before = digest(workdir), curve(workdir)
    copies = Copies("gs://bucket/runs/cpt")
    assert sorted(copies.contents()) == ["0", "10", "12", "6"]
    copies.remove("12")
    (copies._root / "10" / CONTENTS).unlink()
    shutil.rmtree(workdir / "runs")
    capsys.readouterr()
    train(config, workdir)
    assert "going on from step 6 of 12" in capsys.readouterr().err
    assert (digest(workdir), curve(workdir)) == before and sorted(copies.contents()) == ["0", "10", "12", "6"]
    assert "made_from" in json.loads((copies._root / "12" / CONTENTS).read_text())
