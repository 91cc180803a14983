"""A `prepare` that is killed, or that finds the disk full, leaves what was there before and nothing half-written."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.workdir import FILE_HASHES, LOCK
from tests.data_prep.tables import corpus_of, numbered_titles, random_interactions, table_source
from tests.run_jobs import prepare

ROOT = Path(__file__).parents[2]
# Kills itself the hard way at the end of one step: nothing can be caught, closed or cleaned up.
KILLED = """
import os, signal, sys
import data_prep.prepare, data_prep.steps.run, tests.run_jobs
module, name = sys.argv[1].rsplit(".", 1)
original = getattr(sys.modules[module], name)
def last(*args):
    original(*args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(sys.modules[module], name, last)
from cprec_jax.cli import load_config
tests.run_jobs.prepare(load_config(sys.argv[2], {}), sys.argv[3])
"""


def config_file(folder: Path, source: dict) -> Path:
    section = {"sources": {"books": source}, "candidates": {"protocols": ["u3"]}, "k_core": 0}
    path = folder / "config.py"
    path.write_text(f"def get_config():\n    return {{'corpus': {section!r}}}\n", encoding="utf-8")
    return path


def child(*arguments: object, **rest) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False, **rest
    )


def left(workdir: Path) -> list[str]:
    return sorted(path.name for path in workdir.iterdir() if path.name not in (FILE_HASHES, LOCK))


def test_killed(tmp_path: Path):
    """With all sequences written, with the manifest written but nothing renamed, and between the two renames."""
    source = table_source(tmp_path / "raw", random_interactions(1), numbered_titles())
    workdir = tmp_path / "work"
    before = corpus_of(
        workdir, {"books": table_source(tmp_path / "old", random_interactions(2), numbered_titles())}, k_core=0
    ).hash
    for step in ("data_prep.steps.run.write_sequences", "data_prep.prepare.write_manifest"):
        done = child("-c", KILLED, step, config_file(tmp_path, source), workdir)
        assert done.returncode == -9, done.stderr
        assert Corpus.open(workdir / "corpus").hash == before
        assert len(left(workdir)) == 2  # beside it what the dead process was writing
    done = child("-c", KILLED, "cprec_jax.artefact._move_away", config_file(tmp_path, source), workdir)
    # the one before is moved away, the new one not yet there
    assert done.returncode == -9 and "corpus" not in left(workdir)
    with pytest.raises(UserError, match="no readable rows"):
        corpus_of(workdir, {"books": table_source(tmp_path / "empty", [], numbered_titles())})
    assert Corpus.open(workdir / "corpus").hash == before and left(workdir) == ["corpus"]
    after = corpus_of(workdir, {"books": source}, k_core=0).hash
    assert left(workdir) == ["corpus"] and after != before
    assert after == corpus_of(tmp_path / "unbroken", {"books": source}, k_core=0).hash


def test_a_full_disk(tmp_path: Path):
    """No file may grow beyond 4 kB, as on a disk that fills up while it is written."""
    titles = {f"i{n}": f"Title {n} " + "".join(chr(97 + n * k * k % 26) for k in range(250)) for n in range(25)}
    source = table_source(tmp_path / "raw", random_interactions(1), titles)
    workdir = tmp_path / "work"
    config = config_file(tmp_path, source)
    command = (ROOT / "launch.py", "prepare", f"--config={config}", f"--workdir={workdir}")
    before = corpus_of(
        workdir, {"books": table_source(tmp_path / "old", random_interactions(2), numbered_titles())}
    ).hash
    full = child(*command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    assert full.returncode == 2, full.stderr
    assert full.stderr.splitlines()[-1].startswith("error: ") and "the disk is full" in full.stderr
    assert "free some space and run again (nothing was replaced)" in full.stderr
    assert Corpus.open(workdir / "corpus").hash == before
    assert left(workdir) == ["corpus"]
    prepare({"corpus": {"sources": {"books": source}, "candidates": {"protocols": ["u3"]}, "k_core": 0}}, workdir)
    assert Corpus.open(workdir / "corpus").hash != before
