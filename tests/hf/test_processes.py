"""A model that is spread over two processes: read by both, written by one, the same bytes as from one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cprec_jax.hf.save import save
from tests.conftest import ROOT
from tests.hf.test_save import assert_same_tensors
from tests.model.tiny import tiny

PROCESS = """
import sys
from pathlib import Path
import jax
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.hf.save import save
from cprec_jax.model.decoder import Decoder, abstract_params
from cprec_jax.parallel import distributed
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.parallel.rules import param_shardings

source, target, coordinator, process = sys.argv[1:]
distributed.start(coordinator, "2", process)
assert jax.process_count() == 2 and len(jax.devices()) == 4, jax.devices()
config = read_config(Path(source))
params = load_params(Path(source), config, param_shardings(make_mesh(1, 2, 2), *abstract_params(Decoder(config))))
gate = params["layers"]["mlp"]["gate"]
assert not gate.is_fully_addressable and {shard.data.shape for shard in gate.addressable_shards} == {(3, 16, 24)}
save(Path(target), params, config, None, "card", shard_bytes=20_000)
assert (Path(target) / "README.md").exists()  # also for the process that does not write
jax.distributed.shutdown()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    decoder, params = tiny(tie_embeddings=False)
    save(tmp_path / "base", params, decoder.config, None, "card", shard_bytes=20_000)
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-c", PROCESS, str(tmp_path / "base"), str(tmp_path / "out"), f"127.0.0.1:{free_port()}"]
    processes = [
        subprocess.Popen([*arguments, str(i)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
        for i in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert_same_tensors(tmp_path / "base", tmp_path / "out")
    names = {path.name for path in (tmp_path / "base").iterdir()}
    assert names == {path.name for path in (tmp_path / "out").iterdir()}
    for name in names:
        assert (tmp_path / "base" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
