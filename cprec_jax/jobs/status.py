"""Job `status`: what is there, in which state and why, and what `run` would do. Makes nothing and reads no weights."""

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cprec_jax import workdir as paths
from cprec_jax.artefact import MANIFEST
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
    found = mistakes(config)
    made = {artefact.name for artefact in graph.to_make(graph.artefacts)}
    lines = [_line(artefact, graph, artefact.name in made) for artefact in graph.artefacts]
    if as_json:
        record: dict[str, Any] = {
            "workdir": str(workdir),
            "artefacts": [vars(line) for line in lines],
            "mistakes": found,
        }
        record |= {"losses": _losses(workdir), "tokenizer_losses": _tokenizer_losses(workdir)}
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        print(_text(lines))
    if found:
        raise UserError("\n".join(found))


def _line(artefact: Artefact, graph: Graph, made: bool) -> Line:
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
        would_be_made=made,
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
    try:
        manifest = json.loads((paths.corpus_directory(workdir) / MANIFEST).read_text(encoding="utf-8"))
        return dict(manifest.get("losses", {}))
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _tokenizer_losses(workdir: Path) -> dict[str, str]:
    """By stage of the rows, what their tokenizer loses of the titles; stages of which it loses nothing are left out."""
    found: dict[str, str] = {}
    for path in sorted(paths.rows_directory(workdir).parent.glob(f"*/{MANIFEST}")):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            losses = json.loads(path.read_text(encoding="utf-8")).get("tokenizer_losses")
            found |= {path.parent.name: str(losses)} if losses and not path.parent.name.startswith(".") else {}
    return found


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
    made = [line.name for line in lines if line.would_be_made and line.state != "current"]
    printed = [line.name for line in lines if line.would_be_made and line.state == "current"]
    doing = f"run would make {', '.join(made)}" if made else "run would make nothing"
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
