"""The gated MLP. B batch, T length, D model, F feed-forward."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.layers import ACTIVATIONS, bias, project, residual_std, weight
from cprec_jax.model.lora import Adapters, add_adapter
from cprec_jax.parallel.rules import constrain


class MLP(nn.Module):
    """down(activation(gate(x)) * up(x)), x [B, T, D]."""

    config: DecoderConfig
    dtype: jnp.dtype
    adapters: Adapters | None = None
    deterministic: bool = True  # of the adapters' dropout

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c = self.config
        gate_BTF, up_BTF = self._into(x_BTD, "gate"), self._into(x_BTD, "up")
        if c.mlp_bias:
            gate_BTF += self.param("gate_bias", bias("mlp"), gate_BTF.shape[-1:]).astype(self.dtype)
            up_BTF += self.param("up_bias", bias("mlp"), up_BTF.shape[-1:]).astype(self.dtype)
        hidden_BTF = constrain(ACTIVATIONS[c.activation](gate_BTF) * up_BTF, "batch", "length", "mlp")
        out_BTD = self._project(
            hidden_BTF, "down", residual_std(c), ("mlp", "embed"), (c.intermediate_size, c.hidden_size)
        )
        if c.mlp_bias:
            out_BTD += self.param("down_bias", bias("norm"), out_BTD.shape[-1:]).astype(self.dtype)
        return out_BTD

    def _into(self, x_BTD: jax.Array, name: str) -> jax.Array:
        c = self.config
        return self._project(x_BTD, name, c.initializer_range, ("embed", "mlp"), (c.hidden_size, c.intermediate_size))

    def _project(self, x: jax.Array, name: str, std: float, axes: tuple[str, str], shape: tuple[int, int]) -> jax.Array:
        w = self.param(name, weight(std, *axes), shape)
        y = project(x, w.astype(self.dtype))
        return add_adapter(self, self.adapters, name, y, x, axes, shape, deterministic=self.deterministic)
