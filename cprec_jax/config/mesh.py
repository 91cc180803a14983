"""`config.mesh`: how devices are laid out."""

from dataclasses import dataclass

from cprec_jax.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class MeshSpec:
    """Devices on each axis; -1 takes the rest."""

    data: int = setting(-1, "devices that share the rows of a batch", affects=())
    fsdp: int = setting(1, "devices that share the rows, and the parameters, too", affects=())
    tensor: int = setting(1, "devices that share each layer", affects=())
