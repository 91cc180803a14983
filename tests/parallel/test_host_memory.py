"""Freed memory stays: a second step of the same size touches no new page."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, threading
from cprec_jax.parallel.host_memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("no glibc"); sys.exit()
import numpy as np
def step():
    np.ones(16 * 2**20)
def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=work); thread.start(); thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(step)
print(faults(step))
"""


def test_freed_memory_is_used_again() -> None:
    found = {}
    for mode in ("plain", "keep"):
        run = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
        if "no glibc" in run.stdout:
            pytest.skip("not glibc")
        found[mode] = int(run.stdout)
    assert found["keep"] < 500, found  # 128 MiB are 32,768 pages
