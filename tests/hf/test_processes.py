"""A model that is spread over two processes: read by both, written by one, the same bytes as from one process."""

import json
from pathlib import Path

import pytest

from cprec_jax.hf.save import save
from tests import road
from tests import run_jobs as jobs
from tests.model.tiny import tiny
from tests.processes import free_port, launched_together, together

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


def assert_same_files(one: Path, two: Path) -> None:
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_loading_and_saving(tmp_path: Path) -> None:
    decoder, params = tiny(tie_embeddings=False)
    save(tmp_path / "base", params, decoder.config, None, "card", shard_bytes=20_000)
    arguments = ["-c", PROCESS, str(tmp_path / "base"), str(tmp_path / "out"), f"127.0.0.1:{free_port()}"]
    together(arguments, [["0"], ["1"]])
    assert_same_files(tmp_path / "base", tmp_path / "out")


@pytest.mark.slow
def test_the_job_export(workdir: Path) -> None:
    """A run of one process, exported by two."""
    config = road.config(train={"steps": 2, "milestones": []})
    jobs.train(config, workdir)
    jobs.export(config, workdir)
    (workdir / "export/cpt").rename(workdir / "export/alone")
    (workdir / "config.py").write_text(
        f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(config))})\n"
    )
    launched_together(["export", f"--config={workdir / 'config.py'}", f"--workdir={workdir}"])
    assert_same_files(workdir / "export/alone", workdir / "export/cpt")
