"""What can go wrong while a shard is written."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# No file may grow beyond 4 kB, as on a disk that fills up while it is written.
FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from cprec_jax.rows.shards import PieceTable, ShardTask, ShardWriter
from cprec_jax.errors import UserError

if __name__ == "__main__":
    rows = 300
    task = ShardTask(
        path=Path(sys.argv[1]) / "rows.array_record",
        row_length=100,
        first_row=0,
        row_documents=np.ones(rows, np.int32),
        document_pieces=np.ones(rows, np.int32),
        pieces=np.arange(rows),
        n_items=rows,
        loss_below=rows,
        table=PieceTable.of(
            np.random.default_rng(0).integers(0, 30_000, 100 * rows).astype(np.int32), np.arange(0, 100 * rows + 1, 100)
        ),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        with ShardWriter(int(sys.argv[2])) as writer:
            writer.submit("s", task)
    except UserError as error:
        print(error)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_clear_line(tmp_path: Path, workers: int) -> None:
    script = tmp_path / "full.py"
    script.write_text(FULL)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(workers)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("pack: the disk is full (") and line.endswith(
        "free some space and run again (nothing was replaced)"
    )
