"""A TPU that another process holds: one line that names the process, whatever libtpu gives to go by."""

import fcntl
import os
from pathlib import Path

import pytest
from jax._src import xla_bridge

from cprec_jax import cli
from cprec_jax.errors import UserError
from cprec_jax.parallel import tpu_lock
from cprec_jax.parallel.mesh import make_mesh
from tests import road

IN_USE = (
    "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by process with pid {pid}. Not attempting "
    "to load libtpu.so in this process. (set JAX_PLATFORMS='' to automatically choose an available backend)"
)
LOCKED = 'Internal error when accessing libtpu multi-process lockfile. Run "$ sudo rm /tmp/libtpu_lockfile".'
OTHER_USER = (
    'libtpu.so already in use by another process probably owned by another user. Run "$ sudo lsof -w /dev/accel0"'
)


def test_the_process_that_libtpu_names() -> None:
    found = tpu_lock.explained(RuntimeError(IN_USE.format(pid=os.getpid())))
    assert isinstance(found, UserError)
    assert str(found).startswith(f"the TPU of this host is held by process {os.getpid()} (") and "python" in str(found)


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    found = str(tpu_lock.explained(IN_USE.format(pid=4242), tmp_path / "lock", proc=tmp_path))
    assert "was held by process 4242, which is gone" in found and f"remove {tmp_path / 'lock'}" in found


@pytest.mark.parametrize("text", [LOCKED, OTHER_USER])
def test_the_process_that_holds_the_lock_file(tmp_path: Path, text: str) -> None:
    lock = tmp_path / "libtpu_lockfile"
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Asked of the kernel, not of the code under test: where that is wrong the test must fail.
        if f":{lock.stat().st_ino} " not in Path("/proc/locks").read_text(encoding="ascii"):
            pytest.skip("this kernel does not list the locks of this process")
        found = str(tpu_lock.explained(text, lock))
    assert f"held by process {os.getpid()} (" in found


@pytest.mark.parametrize("text", [LOCKED, OTHER_USER])
def test_a_lock_file_as_the_kernel_lists_it(tmp_path: Path, text: str) -> None:
    lock, process = tmp_path / "libtpu_lockfile", tmp_path / "77"
    lock.touch()
    process.mkdir()
    (process / "cmdline").write_bytes(b"python\0other.py\0")
    inode = lock.stat().st_ino
    listed = f"1: POSIX  ADVISORY  READ 5 fe:00:{inode}9 0 EOF\n2: FLOCK  ADVISORY  WRITE 77 fe:00:{inode} 0 EOF\n"
    (tmp_path / "locks").write_text(listed)
    found = str(tpu_lock.explained(text, lock, proc=tmp_path))
    assert found == "the TPU of this host is held by process 77 (python other.py); end it, or wait for it"
    lock.unlink()
    assert "is held by another process (" in str(tpu_lock.explained(text, lock, proc=tmp_path))


def test_other_errors_are_none_of_its_business() -> None:
    assert tpu_lock.explained(RuntimeError("Unable to initialize backend 'tpu': no such device")) is None


def test_jax_that_fell_back_to_the_cpu_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without JAX_PLATFORMS jax goes on with the CPU, and says so in its debug log alone."""
    make_mesh()
    monkeypatch.setitem(xla_bridge._backend_errors, "tpu", IN_USE.format(pid=os.getpid()).partition(": ")[2])
    with pytest.raises(UserError, match=f"held by process {os.getpid()}"):
        make_mesh()


def test_a_job_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(IN_USE.format(pid=os.getpid()))

    monkeypatch.setattr(cli, "_run_job", fail)
    monkeypatch.setattr(cli, "load_config", lambda *_: road.CONFIG)
    assert cli.main(["train", "--config=c.py", f"--workdir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: the TPU of this host is held by process {os.getpid()}")
