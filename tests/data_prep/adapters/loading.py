"""One source through its adapter, and files as platforms publish them."""

import gzip
from collections.abc import Sequence
from pathlib import Path

from data_prep.adapters import make_adapters
from data_prep.engine import Engine
from data_prep.rejects import Rejects
from tests.run_jobs import corpus_spec


class Loaded:
    """The raw tables, sorted: `interactions` (user, item, time), `items` (id, title); `rejected`: reason -> n."""

    def __init__(self, adapter: str, interactions: Path, items: Path | None, max_bad_lines: int = 100, **source):
        given = {"role": "pretrain", "adapter": adapter, "interactions": str(interactions), **source}
        if items is not None:
            given["items"] = str(items)
        spec = corpus_spec({"corpus": {"sources": {"shop": given}, "max_bad_lines": max_bad_lines}})
        rejects = Rejects(max_bad_lines)
        scratch = interactions.parent / "scratch"
        engine = Engine(scratch, threads=1)
        try:
            engine.script("tables")
            self.order = make_adapters(spec)[adapter].load(spec.sources[0], 0, engine, rejects)
            self.interactions = sorted(engine.rows("SELECT user_id, item_id, time FROM raw_interactions"))
            self.items = sorted(engine.rows("SELECT item_id, title FROM raw_items"), key=str)
            self.left_over = engine.rows(
                "SELECT table_name FROM information_schema.tables WHERE table_name IN ('staged', 'parsed')"
            )
        finally:
            engine.close()
        self.samples = {reason: entry["samples"] for reason, entry in rejects.as_dict().items()}
        self.rejected = {reason: entry["n"] for reason, entry in rejects.as_dict().items()}

    def refused(self, *but: str) -> int:
        """How many in all, but for these reasons."""
        return sum(n for reason, n in self.rejected.items() if reason not in but)


def write(path: Path, lines: Sequence[bytes | str], encoding: str = "utf-8") -> Path:
    """Lines to a file, gzipped if its name says so."""
    content = b"".join((line if isinstance(line, bytes) else line.encode(encoding)) + b"\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def truncate(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path
