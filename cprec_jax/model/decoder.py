"""The decoder: embedding, scanned layers, final norm.

The head is separate, because the loss applies it in chunks. B batch, T length, D model, V vocabulary, L layers, K
key/value heads, h head dim.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cprec_jax.model.attention import (
    ATTENTION_OUTPUT,
    NO_WINDOW,
    AttendFn,
    Attention,
    Context,
    Past,
    packed_attention,
)
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.layers import PROJECTION, norm_scale, rms_norm, rope_frequencies, rope_tables, weight
from cprec_jax.model.lora import Adapters
from cprec_jax.model.mlp import MLP
from cprec_jax.parallel.rules import constrain

Params = Mapping[str, Any]

_REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    # only element-wise operations and attention scores are recomputed
    "dots": jax.checkpoint_policies.save_only_these_names(PROJECTION, ATTENTION_OUTPUT),
}


class Block(nn.Module):
    """One layer: attention and MLP, each with its norms and residual connection."""

    config: DecoderConfig
    dtype: jnp.dtype
    attend: AttendFn
    dropout: float
    deterministic: bool
    return_kv: bool
    adapters: Adapters | None = None

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, past: Past | None, layer: jax.Array | None, tables: Any, context: Context | None
    ) -> tuple[jax.Array, Any]:
        """(x_BTD, keys and values or None), with keys and values only for `return_kv`.

        layer: bool scalar, whether this layer is local; None where all layers are alike. tables: `Decoder.rope`. past,
        context: see `AttendFn`.
        """
        c = self.config
        window: Any = c.sliding_window
        if layer is not None:
            window = jnp.where(layer, window, NO_WINDOW)
            if c.local_rope_theta is not None:
                everywhere, local = tables
                tables = jax.tree.map(lambda a, b: jnp.where(layer, b, a), everywhere, local)
        attention = Attention(
            config=c,
            dtype=self.dtype,
            attend=self.attend,
            adapters=self.adapters,
            deterministic=self.deterministic,
            name="attention",
        )
        out_BTD, kv = attention(self._norm("attention_norm", x_BTD, "pre"), tables, window, past, context)
        x_BTD = self._add(x_BTD, self._norm("attention_post_norm", out_BTD, "post"))
        mlp = MLP(config=c, dtype=self.dtype, adapters=self.adapters, deterministic=self.deterministic, name="mlp")
        out_BTD = mlp(self._norm("mlp_norm", x_BTD, "pre"))
        x_BTD = self._add(x_BTD, self._norm("mlp_post_norm", out_BTD, "post"))
        return x_BTD, kv if self.return_kv else None

    def _norm(self, name: str, x_BTD: jax.Array, placement: str) -> jax.Array:
        if self.config.norm_placement not in (placement, "both"):
            return x_BTD
        return rms_norm(x_BTD, self.param(name, norm_scale(self.config), x_BTD.shape[-1:]), self.config)

    def _add(self, x_BTD: jax.Array, out_BTD: jax.Array) -> jax.Array:
        if self.dropout and not self.deterministic:
            out_BTD = nn.Dropout(self.dropout, deterministic=False)(out_BTD)
        return constrain(x_BTD + out_BTD, "batch", "length", None)


class Decoder(nn.Module):
    """A decoder-only transformer up to its final norm; `head_weight` and `logits` finish it.

    config: the architecture.
    dtype: compute dtype; parameters are float32 and cast where they are used, norms and softmax run in float32.
    remat: what a layer stores for the backward pass: everything ("none"), only its input ("full"), or its projections
      and attention output ("dots").
    unroll: unroll the loop over layers (longer compile).
    dropout: rate on the embedding and on what each sublayer adds to the residual stream; active with
      deterministic=False and rng "dropout"; 0 adds no operation.
    attend: see `attention.AttendFn`.
    adapters: the low-rank adapters of its linear layers, with parameters beside the layers' own (`model/lora.py`).
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    remat: Literal["none", "full", "dots"] = "none"
    unroll: bool = False
    dropout: float = 0.0
    attend: AttendFn = packed_attention()
    adapters: Adapters | None = None

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        context: Context | None,
        past: Past | None = None,
        *,
        return_kv: bool = False,
        deterministic: bool = True,
    ) -> Any:
        """Hidden states x_BTD after the final norm, in `dtype`.

        With `return_kv`: (x_BTD, (k_LBTKh, v_LBTKh)), keys after rotation.

        Args:
          tokens_BT, positions_BT: int32.
          context: passed to `attend` unchanged, in every layer.
          past: arrays with a leading layer axis; `attend` gets one slice of each per layer.
        """
        c = self.config
        embed_VD = self.param("embed", weight(c.initializer_range, "vocab", "embed"), (c.vocab_size, c.hidden_size))
        if not c.tie_embeddings:  # applied by `logits` or by the chunked loss
            self.param("lm_head", weight(c.initializer_range, "vocab", "embed"), (c.vocab_size, c.hidden_size))
        x_BTD = self.embed_tokens(embed_VD, tokens_BT)
        if self.dropout and not deterministic:
            x_BTD = nn.Dropout(self.dropout, deterministic=False)(x_BTD)
        x_BTD = constrain(x_BTD, "batch", "length", None)

        # Without the barrier XLA recomputes the sines for every head of every layer where layers are unrolled.
        rope = jax.lax.optimization_barrier(self.rope(positions_BT))
        layers = self._scanned()(
            config=c,
            dtype=self.dtype,
            attend=self.attend,
            dropout=self.dropout,
            deterministic=deterministic,
            return_kv=return_kv,
            adapters=self.adapters,
            name="layers",
        )
        layer_L = None if c.sliding_layers is None else np.asarray(c.sliding_layers)
        x_BTD, kv = layers(x_BTD, past, layer_L, rope, context)

        x_BTD = rms_norm(x_BTD, self.param("final_norm", norm_scale(c), (c.hidden_size,)), c)
        return (x_BTD, kv) if return_kv else x_BTD

    @property
    def drops(self) -> bool:
        """Whether training needs a dropout rng."""
        return bool(self.dropout or (self.adapters is not None and self.adapters.dropout))

    def embed_tokens(self, embed_VD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
        """The first layer's input x_BTD, in `dtype`."""
        # Gathered over fsdp first: for a lookup in a table sharded along D the partitioner replicates the result.
        # Looked up in float32, so that the gradients of frequent tokens are summed in float32.
        x_BTD = constrain(embed_VD, "vocab", None)[tokens_BT].astype(self.dtype)
        if self.config.scale_embeddings:  # the factor is rounded to the compute dtype, as in Gemma's reference code
            x_BTD *= jnp.asarray(self.config.hidden_size**0.5, self.dtype)
        return x_BTD

    def _scanned(self) -> Any:
        block: Any = Block
        if self.remat != "none":  # inside a loop XLA cannot undo the recomputation; unrolled it could
            block = nn.remat(block, policy=_REMAT_POLICIES[self.remat], prevent_cse=self.unroll)
        return nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast),
            length=self.config.num_layers,
            unroll=self.config.num_layers if self.unroll else 1,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )

    def rope(self, positions_BT: jax.Array) -> Any:
        """The rotary tables (`rope_tables`) of all layers; a pair (global, local) where local layers have another
        theta."""
        c = self.config
        tables = rope_tables(positions_BT, rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling))
        if c.local_rope_theta is None:
            return tables
        return tables, rope_tables(positions_BT, rope_frequencies(c.head_dim, c.local_rope_theta, None))


def _boxed_init(decoder: Decoder, key: jax.Array) -> Any:
    tokens_BT = jnp.zeros((1, 1), jnp.int32)
    # parameters do not depend on the attend function; the packed one accepts this context
    return decoder.clone(attend=packed_attention()).init(key, tokens_BT, tokens_BT, (tokens_BT,))["params"]


def init_params(decoder: Decoder, key: jax.Array) -> Params:
    """New parameters: a nested dict of float32 arrays, layers stacked on a leading axis.

    Pure: jit it with `out_shardings`.
    """
    return nn.unbox(_boxed_init(decoder, key))


def abstract_params(decoder: Decoder) -> tuple[Params, Params]:
    """Shapes (`jax.ShapeDtypeStruct`) and logical axis names (tuples of str) of the parameters; allocates nothing."""
    boxed = jax.eval_shape(lambda key: _boxed_init(decoder, key), jax.random.key(0))
    is_box = lambda x: isinstance(x, nn.Partitioned | nn.LogicallyPartitioned)  # noqa: E731
    return nn.unbox(boxed), jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=is_box)


def count_params(config: DecoderConfig) -> int:
    """Number of parameters; a tied head counts once."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(Decoder(config))[0]))


def head_weight(params: Params, config: DecoderConfig) -> jax.Array:
    """w_VD, float32: the embedding where it is tied, else `lm_head`."""
    return params["embed"] if config.tie_embeddings else params["lm_head"]


def logits(params: Params, config: DecoderConfig, x_BTD: jax.Array) -> jax.Array:
    """float32 [B, T, V] from final hidden states, for tests and generation. Training applies the head in chunks."""
    return jnp.einsum(
        "BTD,VD->BTV", x_BTD, head_weight(params, config).astype(x_BTD.dtype), preferred_element_type=jnp.float32
    )
