"""Validation during training: at regular steps a function of the job computes metrics of the parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cprec_jax.attempts import Ledger
from cprec_jax.model.lora import merged
from cprec_jax.parallel import processes
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.parallel.rules import replicated
from cprec_jax.train.leaves import Leaves, merge
from cprec_jax.train.state import TrainState

Probe = Callable[[Any], Mapping[str, float]]
"""probe(params) -> values by name. params: of the model, adapters merged, float32, whole on one device."""


class Validate:
    """Calls `probe` with the parameters after every `every`-th step and after the last.

    The first process calls it, on its first device, while the others wait. The model must fit there beside that
    device's share of the training state. It changes no random state and no array of the training.
    """

    def __init__(
        self,
        probe: Probe,
        every: int,
        total_steps: int,
        mesh: jax.sharding.Mesh,
        adapter_scale: float | None,
        ledger: Ledger,
    ):
        """adapter_scale: of the trained adapter, which is merged into its base; None: there is no adapter."""
        self._probe, self._every, self._total_steps = probe, every, total_steps
        self._mesh, self._adapter_scale, self._ledger = mesh, adapter_scale, ledger
        self._one_device = make_mesh(devices=jax.local_devices()[:1])

    def is_due(self, step: int) -> bool:
        """Whether the step is to be validated."""
        return step % self._every == 0 or step == self._total_steps

    def __call__(self, state: TrainState, frozen: Leaves) -> dict[str, float]:
        """The probe's values for a state. All processes must call."""
        with self._ledger.phase("validate"), jax.transfer_guard("allow"):
            params = self._on_one_device(merge(state.trained, frozen))
            with jax.set_mesh(self._one_device):
                return processes.from_first(lambda: self._values(params))

    def _values(self, params: Leaves) -> dict[str, float]:
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)  # the base of an adapter may be bfloat16
        model = params if self._adapter_scale is None else merged(params, self._adapter_scale)
        return {name: float(value) for name, value in self._probe(model).items()}

    def _on_one_device(self, params: Leaves) -> Leaves:
        """The parameters, whole on the first device of this process."""
        if processes.count() == 1:
            return jax.device_put(params, replicated(self._one_device))
        gathered = jax.jit(lambda tree: tree, out_shardings=replicated(self._mesh))(params)
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), gathered)
