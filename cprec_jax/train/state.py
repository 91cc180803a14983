"""The state that steps change (`TrainState`), which is donated and saved; frozen leaves are a separate tree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cprec_jax.parallel import rules


@flax.struct.dataclass
class TrainState:
    """Everything that steps change.

    step: int32 scalar, the number of finished steps. trained: the trained leaves, float32. opt_state: the optimizer's.
    """

    step: jax.Array
    trained: Any
    opt_state: Any


def new_state(trained: Any, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainState:
    """A state at step 0. The optimizer's moments are sharded like their leaves; the rest of its state is replicated."""
    opt_shardings = _like_leaves(jax.eval_shape(optimizer.init, trained), trained, rules.replicated(mesh))
    opt_state = jax.jit(optimizer.init, out_shardings=opt_shardings)(trained)
    return TrainState(
        step=jax.device_put(jnp.zeros((), jnp.int32), rules.replicated(mesh)), trained=trained, opt_state=opt_state
    )


def _like_leaves(opt_shapes: Any, trained: Any, otherwise: jax.sharding.NamedSharding) -> Any:
    """Shardings of the optimizer's state. An array whose path ends with that of a leaf of the same shape is its moment.

    `optax.tree_map_params` finds moments by their tree, and would include factored ones, which have another shape.
    """
    leaves = {path: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trained)}

    def sharding(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
        leaf = next((leaves[path[start:]] for start in range(len(path)) if path[start:] in leaves), None)
        return leaf.sharding if leaf is not None and leaf.shape == shape.shape else otherwise

    return jax.tree_util.tree_map_with_path(sharding, opt_shapes)


def shardings_of(tree: Any) -> Any:
    """The shardings of a tree of arrays."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a tree of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)
