"""The SHA-256 of parameters."""

import hashlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def parameters_sha256(params: Any) -> str:
    """SHA-256 over paths and bytes of all parameters: equal only for bit-identical parameters.

    All processes must call.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        if not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
