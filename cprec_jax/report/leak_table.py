"""The table of leak probes: what language models write verbatim."""

from collections.abc import Sequence

from cprec_jax.evaluate.results import Result
from cprec_jax.report.table import NOTHING, Cell, Column, Row, Table


def leak_table(results: Sequence[Result], sets: Sequence[str]) -> Table | None:
    """What language models write verbatim, a row per model and set; None where no result has a leak probe."""
    keys = (
        "titles",
        "titles_verbatim",
        "titles_tokens",
        "sequences",
        "sequences_verbatim",
        "sequences_verbatim_control",
    )
    rows = []
    for name in sets:
        for result in results:
            facts = result.sets[name].facts if name in result.sets else {}
            if "leak_probe titles" in facts:
                figures = (_figure(key, facts.get(f"leak_probe {key}")) for key in keys)
                rows.append(
                    Row(cells=(Cell(text=name), Cell(text=result.name), *(Cell(text=figure) for figure in figures)))
                )
    names = ("Set", "Method", "Titles", "Verbatim", "Tokens right", "Users", "Target verbatim", "Another's target")
    columns = tuple(Column(name=name) for name in names)
    return Table(title="Greedy continuations", columns=columns, rows=tuple(rows), text_columns=2) if rows else None


def _figure(key: str, value: object) -> str:
    if value is None:  # a share of none
        return NOTHING
    return f"{value:,.0f}" if key in ("titles", "sequences") else f"{value:.3f}"
