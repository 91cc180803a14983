"""How much memory of the host loading and saving take beyond the parameters themselves: measured with a checkpoint of 2
GiB."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cprec_jax.hf import keys, tensor_file
from cprec_jax.hf.config import unparse_config
from cprec_jax.model.decoder import Decoder, abstract_params
from tests.conftest import ROOT
from tests.model.tiny import tiny_config

GIB = 2**30
CONFIG = tiny_config(
    vocab_size=65536, hidden_size=1024, intermediate_size=4096, num_layers=31, num_heads=8, num_kv_heads=4, head_dim=128
)

MEASURE = """
import json, sys
from pathlib import Path
import jax, numpy as np
from cprec_jax.hf.load import load_params, read_config, source_dtype
from cprec_jax.hf.save import save
from cprec_jax.model.decoder import Decoder, abstract_params
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.parallel.rules import param_shardings

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def start():
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    return memory("VmRSS")

source, target = Path(sys.argv[1]), Path(sys.argv[2])
config = read_config(source)
shapes, axes = abstract_params(Decoder(config))
shardings = param_shardings(make_mesh(1, 2, 2), shapes, axes) if len(jax.devices()) == 4 else None
jax.block_until_ready(jax.numpy.ones(3) + 1)
before = start()
params = jax.block_until_ready(load_params(source, config, shardings))
loaded = memory("VmHWM") - before
before = start()
save(target, params, config, None, "card", source_dtype(source), shard_bytes=2**30)
kept = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
print(json.dumps({"load": loaded, "save": memory("VmHWM") - before, "kept": kept}))
"""


def generate(directory: Path, dtype: str) -> tuple[int, int]:
    """A checkpoint in three shards with random bits that are finite numbers; returns (bytes, bytes of the largest
    tensor)."""
    directory.mkdir()
    kind = tensor_file.DTYPES["F32" if dtype == "float32" else "BF16"]
    shapes, _ = abstract_params(Decoder(CONFIG))
    described = []
    for tensor in keys.tensors(CONFIG):
        leaf = shapes
        for key in tensor.path:
            leaf = leaf[key]
        described.append(
            (tensor.name, kind, tensor.layout.hf_shape(leaf.shape if tensor.layer is None else leaf.shape[1:]))
        )
    rng = np.random.default_rng(0)
    block = rng.normal(size=2**20).astype(kind)
    files = {f"model-0000{i + 1}-of-00003.safetensors": described[i::3] for i in range(3)}
    for file, tensors in files.items():
        arrays = (np.resize(np.roll(block, int(rng.integers(2**20))), shape) for _, _, shape in tensors)
        tensor_file.write(directory / file, tensors, arrays)
    weight_map = {name: file for file, tensors in files.items() for name, _, _ in tensors}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(unparse_config(CONFIG, dtype, {})))
    sizes = [kind.itemsize * int(np.prod(shape)) for _, _, shape in described]
    return sum(sizes), max(sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "devices"), [("float32", 1), ("bfloat16", 4)])
def test_peak_memory(tmp_path: Path, dtype: str, devices: int) -> None:
    total, largest = generate(tmp_path / "in", dtype)
    assert total > (2 if dtype == "float32" else 1) * GIB
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "in"), str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stderr
    measured = json.loads(run.stdout)
    load, saved = (
        (measured["load"] - measured["kept"]) / largest,
        measured["save"] / (4 * CONFIG.vocab_size * CONFIG.hidden_size),
    )
    print(
        f"\n{dtype}, {devices} devices, beyond what is kept: load {load:.2f} x the largest tensor, save {saved:.2f} x "
        "it as float32"
    )
    assert load <= 1.3
    assert saved <= 1.5
