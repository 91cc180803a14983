"""Restores the parameters of a run's checkpoint, for evaluation and export."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from cprec_jax.artefact import MANIFEST, read_json
from cprec_jax.config.model import ModelSpec
from cprec_jax.errors import DamagedCheckpoint
from cprec_jax.model.decoder import Decoder, abstract_params
from cprec_jax.model.lora import merged
from cprec_jax.parallel import rules
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.description import adapters_of_run, make_decoder, read_description


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A decoder, its parameters, their step, and the checkpoint's meta (tokens seen, seconds)."""

    decoder: Decoder
    params: Any
    step: int
    meta: dict[str, Any]


def restore_decoder(
    directory: Path, step: int | None = None, fraction: float | None = None, mesh: jax.sharding.Mesh | None = None
) -> Restored:
    """Load the parameters of RUN `directory`; for a run with an adapter, the float32 sum of base and adapter.

    Args:
      step: of the checkpoint; None: the one that the run stands for, the selected or the last. Step 0 has the
        parameters before training.
      fraction: instead of `step`, the checkpoint nearest to this fraction of the newest one's step.
      mesh: of the parameters' devices; None: whole on the first device.

    Raises `UserError` for a checkpoint that is absent or unfit, `DamagedCheckpoint` for one that cannot be read.
    """
    stored = restore_stored(directory, step, fraction, mesh)
    adapters = stored.decoder.adapters
    if adapters is None:
        return stored
    return dataclasses.replace(
        stored, decoder=stored.decoder.clone(adapters=None), params=merged(stored.params, adapters.scale)
    )


def restore_stored(
    directory: Path, step: int | None = None, fraction: float | None = None, mesh: jax.sharding.Mesh | None = None
) -> Restored:
    """`restore_decoder` without the sum: the parameters of an adapter stay beside those of its base."""
    description = read_description(directory)
    decoder = make_decoder(ModelSpec(), description["decoder"], adapters=adapters_of_run(directory))
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    steps = checkpoints.steps()
    manifest = read_json(directory / MANIFEST, "train") if (directory / MANIFEST).exists() else {}
    last = manifest.get("step")
    if step is None and fraction is None:
        step = manifest.get("selected")
    if step is None and last is not None and last not in steps:
        raise DamagedCheckpoint(
            f"{checkpoints.directory}: the last checkpoint, step {last}, is missing; there are {steps or 'none'}, and "
            "`launch.py train` with the same --config and --workdir makes it again"
        )
    if fraction is not None and steps:
        step = min(steps, key=lambda s: (abs(s - fraction * steps[-1]), s))
    shapes, axes = abstract_params(decoder)
    if mesh is None:
        mesh = make_mesh(devices=jax.local_devices()[:1])
    shardings = rules.param_shardings(mesh, shapes, axes)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    params, step, meta = checkpoints.restore_params(abstract, step)
    checkpoints.close()
    return Restored(decoder=decoder, params=params, step=step, meta=meta)
