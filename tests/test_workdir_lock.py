"""One process at a time in a work directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cprec_jax.errors import UserError
from cprec_jax.workdir_lock import hold
from tests.conftest import ROOT

HOLDER = """
import sys
from pathlib import Path
from cprec_jax.workdir_lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_gets_one_line_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    said = rf"process {other.pid} on .* \(since 20.*\) works in it; wait, stop that one, or choose another"
    with pytest.raises(UserError, match=said), hold(tmp_path):
        raise AssertionError("two hold it")
    other.kill()
    other.wait()
    with hold(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock").read_text()
    with hold(tmp_path):
        pass
