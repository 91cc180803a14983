"""What a run changes (`TrainState`) and what it does not (`frozen`): two trees, of which the first alone is donated and
saved."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cprec_jax.parallel import rules


@flax.struct.dataclass
class TrainState:
    """Everything that steps change: how many are done, the trained leaves (float32), and the optimizer's state over
    them."""

    step: jax.Array
    trained: Any
    opt_state: Any


def new_state(trained: Any, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainState:
    """A state at step 0; moments are sharded like the leaf that they belong to, everything else of the optimizer is
    replicated."""
    opt_shardings = _like_leaves(jax.eval_shape(optimizer.init, trained), trained, rules.replicated(mesh))
    opt_state = jax.jit(optimizer.init, out_shardings=opt_shardings)(trained)
    return TrainState(
        step=jax.device_put(jnp.zeros((), jnp.int32), rules.replicated(mesh)), trained=trained, opt_state=opt_state
    )


def _like_leaves(opt_shapes: Any, trained: Any, otherwise: jax.sharding.NamedSharding) -> Any:
    """Shardings for the optimizer's state: an array at the end of the same path and of the same shape as a leaf is a
    moment of it.

    `optax.tree_map_params` finds the moments by their tree and cannot tell the factored ones, which have another shape.
    """
    leaves = {path: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trained)}

    def sharding(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
        leaf = next((leaves[path[start:]] for start in range(len(path)) if path[start:] in leaves), None)
        return leaf.sharding if leaf is not None and leaf.shape == shape.shape else otherwise

    return jax.tree_util.tree_map_with_path(sharding, opt_shapes)


def shardings_of(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a tree of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)
