"""The rotary embedding of a `config.json`, in the old spelling (rope_theta, rope_scaling) and the new one
(rope_parameters)."""

from collections.abc import Sequence
from typing import Any

from cprec_jax.errors import UserError
from cprec_jax.hf.settings import Settings
from cprec_jax.model.config import RopeScaling

ROPE_KINDS = ("default", "linear", "llama3")
LOCAL_ROPE_THETA = 10000.0  # Gemma 3's default for layers with a window


def parse_rope(get: Settings, model_type: str) -> tuple[RopeScaling | None, float, float]:
    """(scaling, theta, theta of local layers). Raises `UserError` for what is not supported, and where two spellings
    contradict."""
    sections, local = [], []
    for key in ("rope_scaling", "rope_parameters"):
        section = get.section(key)
        if (
            "full_attention" in section.given or "sliding_attention" in section.given
        ):  # one set for each layer type (Gemma 3)
            if model_type != "gemma3_text":
                raise UserError(f"{section.where} by layer type is not supported for model_type {model_type!r}")
            local.append(section.section("sliding_attention"))
            section = section.section("full_attention")
        if section.given:
            sections.append(section)
    for section in local:
        if _scaling(section) is not None:
            raise UserError(f"{section.where}: a scaled rope type is not supported; supported: default")
    scalings = [_scaling(section) for section in sections]
    if any(scaling != scalings[0] for scaling in scalings):
        raise UserError(f"{get.where}: rope_scaling and rope_parameters contradict each other; keep one")
    theta = _theta(get, "rope_theta", sections, 10000.0)
    return scalings[0] if scalings else None, theta, _theta(get, "rope_local_base_freq", local, LOCAL_ROPE_THETA)


def _theta(get: Settings, old_key: str, sections: Sequence[Settings], default: float) -> float:
    thetas = [section.positive("rope_theta") for section in sections if section.given.get("rope_theta") is not None]
    if get.given.get(old_key) is not None or not thetas:
        thetas.append(get.positive(old_key, default))
    if len(set(thetas)) > 1:
        raise UserError(
            f"{get.where}: {old_key} and a rope_theta contradict each other: {', '.join(map(str, thetas))}; keep one"
        )
    return thetas[0]


def _scaling(rope: Settings) -> RopeScaling | None:
    kinds = [rope.given[key] for key in ("rope_type", "type") if rope.given.get(key) is not None] or ["default"]
    for kind in kinds:
        if kind not in ROPE_KINDS:
            raise UserError(f"{rope.where}: rope type {kind!r} is not supported; supported: {', '.join(ROPE_KINDS)}")
    kind = kinds[0]
    if kinds[-1] != kind:
        raise UserError(f"{rope.where}: rope_type {kind!r} and type {kinds[-1]!r} contradict each other; keep one")
    if rope.given.get("partial_rotary_factor") not in (None, 1):
        raise UserError(
            f"{rope.where}: partial_rotary_factor = {rope.given['partial_rotary_factor']!r} is not supported"
        )
    if kind == "default":
        return None
    numbers = ["factor"] if kind == "linear" else ["factor", "low_freq_factor", "high_freq_factor"]
    integers = [] if kind == "linear" else ["original_max_position_embeddings"]
    missing = [name for name in numbers + integers if rope.given.get(name) is None]
    if missing:
        raise UserError(f"{rope.where}: rope type {kind!r} needs {', '.join(missing)}")
    values: dict[str, Any] = {name: rope.positive(name) for name in numbers} | {
        name: rope.integer(name) for name in integers
    }
    try:
        return RopeScaling(kind=kind, **values)
    except ValueError as error:
        raise UserError(f"{rope.where}: rope type {kind!r}: {error}") from error
