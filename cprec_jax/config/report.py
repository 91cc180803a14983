"""`config.report`: title, order of rows, and figures taken from elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cprec_jax.config.setting import setting

NOT_SETS = ("source", "protocol")  # keys of `reference` that are defaults for its rows


@dataclass(frozen=True, kw_only=True)
class ReferenceRow:
    """One row that was not measured here: metric values, and the words that say where they come from."""

    set_name: str
    method: str
    values: dict[str, float]
    source: str
    protocol: str


@dataclass(frozen=True, kw_only=True)
class ReportSpec:
    """What the report shows, in which order. `reference` also holds the texts `source` and `protocol`, for all sets or
    in a row, so that nobody compares unlike with unlike:

        {"source": "README of the data", "protocol": "leave-one-out", "Beauty": {"popularity": {"hr@10": 0.0122}}}
    """

    title: str = setting("CPRec report", "headline", affects=("report", "export"))
    order: tuple[str, ...] = setting(
        (), "names of results from top to bottom (empty: as in config.evaluate.names); others follow"
    )
    reference: dict[str, Any] = setting(
        factory=dict,
        help="figures from elsewhere, {SET: {ROW: {METRIC: value}}}, below the measured rows and never marked best",
    )

    def __post_init__(self) -> None:
        reference_rows(self.reference)

    def reference_rows(self) -> list[ReferenceRow]:
        return reference_rows(self.reference)


def reference_rows(reference: Mapping[str, Any]) -> list[ReferenceRow]:
    """Flatten and check `config.report.reference`; `ValueError` says what is wrong (`build` makes it a `UserError`)."""
    defaults = {key: _text(reference[key], key) for key in NOT_SETS if isinstance(reference.get(key), str)}
    rows = []
    for set_name, methods in reference.items():
        if set_name in defaults:
            continue
        for method, values in _mapping(methods, f"reference.{set_name}").items():
            where = f"reference.{set_name}.{method}"
            texts = {
                **defaults,
                **{k: _text(v, f"{where}.{k}") for k, v in _mapping(values, where).items() if k in NOT_SETS},
            }
            if not texts.get("source"):
                raise ValueError(f"{where}: no `source`; say in a text where these figures were taken from")
            numbers = {str(k).lower(): _number(v, f"{where}.{k}") for k, v in values.items() if k not in NOT_SETS}
            if not numbers:
                raise ValueError(f"{where}: no metric; expected for example {{'hr@10': 0.0122}}")
            rows.append(
                ReferenceRow(
                    set_name=str(set_name),
                    method=str(method),
                    values=numbers,
                    source=texts["source"],
                    protocol=texts.get("protocol", "not stated"),
                )
            )
    return rows


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{where}: expected a mapping, got {type(value).__name__} {value!r}; the shape is {{SET: {{ROW: {{METRIC: "
            f"value}}}}}}"
        )
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected text, got {type(value).__name__} {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: expected a number, got {type(value).__name__} {value!r}")
    return float(value)
