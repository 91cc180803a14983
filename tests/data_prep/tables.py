"""Small tables on disk and the corpus made of them."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cprec_jax.corpus import Corpus, Sequences, Targets
from tests.run_jobs import prepare

Interaction = tuple[str, str, int]


def write_lines(path: Path, lines: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines), encoding="utf-8")
    return path


def table_source(
    folder: Path,
    interactions: Iterable[Interaction],
    titles: dict[str, str],
    role: str = "pretrain",
    time: str = "timestamp",
    **rest: Any,
) -> dict[str, Any]:
    """A source of the table adapter with its two files below `folder`."""
    return {
        "role": role,
        "interactions": str(write_lines(folder / "inter.tsv", [("user_id", "item_id", time), *interactions])),
        "items": str(write_lines(folder / "item.tsv", [("item_id", "title"), *titles.items()])),
        **rest,
    }


def corpus_of(workdir: Path, sources: dict[str, dict[str, Any]], **section: Any) -> Corpus:
    prepare({"corpus": {"sources": sources, "candidates": {"protocols": ["u3"]}, **section}}, workdir)
    return Corpus.open(workdir / "corpus")


def random_interactions(
    seed: int, users: int = 60, items: int = 25, n: int = 900, span: int = 1000
) -> list[Interaction]:
    rng = random.Random(seed)
    return [(f"u{rng.randrange(users)}", f"i{int(items * rng.random() ** 2)}", rng.randrange(span)) for _ in range(n)]


def numbered_titles(items: int = 25) -> dict[str, str]:
    return {f"i{i}": f"Title {i}" for i in range(items)}


def records(sequences: Sequences | Targets) -> dict[int, list[int]]:
    """user -> items"""
    return {
        int(user): sequences.items[start:stop].tolist()
        for user, start, stop in zip(sequences.user, sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    }
