"""Job `status`: what is there, in which state and why, and what `run` would do. Makes nothing and reads no weights."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cprec_jax import workdir as paths
from cprec_jax.artefact import MANIFEST, read_manifest
from cprec_jax.config.root import Config
from cprec_jax.errors import UserError
from cprec_jax.graph import Artefact, Graph
from cprec_jax.jobs.checks import mistakes
from cprec_jax.jobs.graph_of import graph_of

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One artefact as it is printed. size: bytes on disk; modified: unix seconds of its record, None where there is
    none."""

    name: str
    job: str
    path: str
    size: int
    modified: float | None
    state: str
    reason: str
    would_be_made: bool


def status(config: Config, workdir: Path, as_json: bool = False) -> None:
    """Print it on standard output. Mistakes in the paths of the config are a `UserError`, after everything was
    printed."""
    graph = graph_of(config, workdir)
    wrong_paths = mistakes(config)
    to_make = {artefact.name for artefact in graph.to_make(graph.artefacts)}
    lines = [_line(artefact, graph, artefact.name in to_make) for artefact in graph.artefacts]
    if as_json:
        record: dict[str, Any] = {
            "workdir": str(workdir),
            "artefacts": [vars(line) for line in lines],
            "mistakes": wrong_paths,
        }
        record |= {"losses": _losses(workdir), "tokenizer_losses": _tokenizer_losses(workdir)}
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        print(_text(lines))
    if wrong_paths:
        raise UserError("\n".join(wrong_paths))


def _line(artefact: Artefact, graph: Graph, would_be_made: bool) -> Line:
    state, record = graph.state(artefact), artefact.path / MANIFEST
    if not record.exists():
        record = artefact.path / artefact.record
    return Line(
        name=artefact.name,
        job=artefact.job,
        path=str(artefact.path),
        size=_size(artefact.path),
        modified=record.stat().st_mtime if record.exists() else None,
        state=state.word,
        reason=state.reason,
        would_be_made=would_be_made,
    )


def _size(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.lstat().st_size if file.is_file() else 0
        except OSError:  # gone meanwhile
            continue
    return total


def _losses(workdir: Path) -> dict[str, Any]:
    """What the corpus lost of each source, and why, where there is one."""
    losses = _manifest(paths.corpus_directory(workdir)).get("losses")
    return dict(losses) if isinstance(losses, Mapping) else {}


def _tokenizer_losses(workdir: Path) -> dict[str, str]:
    """By stage of the rows, what their tokenizer loses of the titles; stages of which it loses nothing are left out."""
    directories = sorted(path.parent for path in paths.rows_directory(workdir).parent.glob(f"*/{MANIFEST}"))
    losses = {rows.name: _manifest(rows).get("tokenizer_losses") for rows in directories if rows.name[:1] != "."}
    return {stage: str(lost) for stage, lost in losses.items() if lost}


def _manifest(directory: Path) -> Mapping[str, Any]:
    """The manifest of an artefact; empty where there is none or it is damaged, which its state says already."""
    try:
        return read_manifest(directory) or {}
    except (OSError, UserError):
        return {}


def _text(lines: Sequence[Line]) -> str:
    cells = [("artefact", "size", "age", "state", "")]
    for line in lines:
        age = "" if line.modified is None else _age(time.time() - line.modified)
        cells.append((line.name, _bytes(line.size) if line.size else "", age, line.state, line.reason))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    table = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in cells
    ]
    not_current = [line.name for line in lines if line.would_be_made and line.state != "current"]
    printed = [line.name for line in lines if line.would_be_made and line.state == "current"]
    doing = f"run would make {', '.join(not_current)}" if not_current else "run would make nothing"
    return "\n".join([*table, "", doing + (f", and print {', '.join(printed)} again" if printed else "")])


def _bytes(size: float) -> str:
    unit = 0
    while size >= 1024 and unit + 1 < len(UNITS):
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {UNITS[unit]}"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
