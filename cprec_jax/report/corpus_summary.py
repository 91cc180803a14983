"""Tables about the corpus, from its manifest: domains, what every step left, what was refused."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cprec_jax.report.table import NOTHING, Cell, Column, Row, Table, describe

MENTIONED = 0.01  # of what was read: what takes less is in the table alone
WARNED = 0.1


def loss_notes(manifest: Mapping[str, Any]) -> list[str]:
    """A sentence for every source that lost, or folded into something else, more than a hundredth of what was read.

    It says what the line of `prepare` says: what was read and kept, then each such reason with its share, an example
    and the likely cause.
    """
    notes = []
    for name, losses in manifest.get("losses", {}).items():
        parts = []
        for lost in (True, False):
            for what, counts in losses.items():
                named = ((reason, entry) for reason, entry in counts["reasons"].items() if entry["share"] > MENTIONED)
                parts += [_reason(what, reason, entry) for reason, entry in named if entry["lost"] == lost]
        if parts:
            loud = "Warning: " if any(counts["lost_share"] > WARNED for counts in losses.values()) else ""
            counted = ", ".join(
                f"{counts['kept']:,} of {counts['read']:,} {what} kept" for what, counts in losses.items()
            )
            notes.append(f"{loud}{name}: {counted}; {'; '.join(parts)}.")
    return notes


def _reason(what: str, reason: str, entry: Mapping[str, Any]) -> str:
    """What became of how many, why, and for example which."""
    verb = "lost" if entry["lost"] else "kept but folded"
    notes = [text for text in (f"first {entry['example']}" if entry["example"] else "", entry["cause"]) if text]
    remark = f" ({'; '.join(notes)})" if notes else ""
    return f"{verb} {entry['n']:,} {what} ({entry['share']:.1%}): {reason}{remark}"


def corpus_tables(manifest: Mapping[str, Any]) -> list[Table]:
    """Domains, interactions after each step, split times, rejected rows; tables with nothing to say are left out."""
    tables = [
        _domains(manifest),
        _losses(manifest),
        _steps(manifest),
        _times(manifest),
        _rejected(manifest),
        _facts(manifest),
    ]
    return [table for table in tables if table.rows]


def _row(*texts: str) -> Row:
    return Row(cells=tuple(Cell(text=text) for text in texts))


def _columns(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name=name) for name in names)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else NOTHING


def _domains(manifest: Mapping[str, Any]) -> Table:
    rows = []
    for name, info in manifest["sets"].items():
        source = manifest.get("sources", {}).get(name, {})
        kept = (list(manifest.get("counts", {}).get(name, {}).values()) or [{}])[-1]
        split = str(info.get("split", NOTHING)).replace("_", " ")
        texts = (name, str(info.get("role", NOTHING)), str(source.get("platform", NOTHING)), split)
        figures = (
            info.get("n_items"),
            kept.get("users"),
            kept.get("interactions"),
            info.get("n_valid_users"),
            info.get("n_test_users"),
        )
        rows.append(_row(*texts, *map(_count, figures), _count(info.get("n_test_targets_never_trained"))))
    columns = _columns(
        "Domain",
        "Role",
        "Platform",
        "Split",
        "Items",
        "Users",
        "Interactions",
        "Valid users",
        "Test users",
        "Never-seen targets",
    )
    note = (
        "Users and interactions are those left for training; never-seen targets are test targets without a training "
        "interaction."
    )
    return Table(title="Domains", columns=columns, rows=tuple(rows), notes=(note,), text_columns=4)


def _losses(manifest: Mapping[str, Any]) -> Table:
    rows = []
    for name, losses in manifest.get("losses", {}).items():
        for what, counts in losses.items():
            reasons = "; ".join(
                f"{reason}: {entry['n']:,} ({entry['share']:.1%})" for reason, entry in counts["reasons"].items()
            )
            rows.append(_row(name, what, reasons or NOTHING, _count(counts["read"]), _count(counts["kept"])))
    note = "Exact duplicates, repeats and items with another's title are kept but folded into others; all else is lost."
    columns = _columns("Domain", "What", "Reasons", "Read", "Kept")
    return Table(title="Read and kept", columns=columns, rows=tuple(rows), notes=(note,), text_columns=3)


def _steps(manifest: Mapping[str, Any]) -> Table:
    counts = manifest.get("counts", {})
    steps = list(dict.fromkeys(step for by_step in counts.values() for step in by_step))
    rows = [
        _row(name, *(_count(by_step.get(step, {}).get("interactions")) for step in steps))
        for name, by_step in counts.items()
    ]
    return Table(title="Interactions left after each step", columns=_columns("Domain", *steps), rows=tuple(rows))


def _times(manifest: Mapping[str, Any]) -> Table:
    rows = [
        _row(name, _time(times.get("t1")), _time(times.get("t2"))) for name, times in manifest.get("times", {}).items()
    ]
    columns = _columns("Platform", "t1: validation begins", "t2: test begins")
    return Table(title="Split times (UTC)", columns=columns, rows=tuple(rows), text_columns=3)


def _time(seconds: Any) -> str:
    if not isinstance(seconds, int):
        return NOTHING
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _rejected(manifest: Mapping[str, Any]) -> Table:
    rows = []
    for reason, entry in manifest.get("rejected", {}).items():
        samples = [str(sample) for sample in entry.get("samples", [])][:1]
        rows.append(_row(reason, samples[0] if samples else NOTHING, _count(entry.get("n"))))
    return Table(
        title="Rejected or changed",
        columns=_columns("Reason", "First example", "Number"),
        rows=tuple(rows),
        text_columns=2,
    )


def _facts(manifest: Mapping[str, Any]) -> Table:
    parts = {
        "Filters": manifest.get("filters"),
        "Titles": manifest.get("titles"),
        "All-domain mixed sequences": manifest.get("mixed"),
    }
    rows = [_row(name, describe(value)) for name, value in parts.items() if value]
    return Table(title="Filters and titles", columns=_columns("What", "Value"), rows=tuple(rows), text_columns=2)
