"""docs/data-formats.md shows what `prepare` prints of each reported case: word for word what it prints now."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cprec_jax import cli
from tests.conftest import ROOT, shared_directory

FILES = {
    "pq": ("tz.parquet", "items_int.parquet"),
    "pdtsv": ("inter.tsv", "items.tsv"),
    "tmdb": ("ratings_small.csv", "movies_metadata.csv"),
}


def shown() -> dict[str, list[str]]:
    """Heading -> the lines below it, of the block that begins with the first case."""
    text = (ROOT / "docs/data-formats.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(# zeros\n.*?)```", text, re.DOTALL)
    headings, *bodies = (
        re.findall(r"^# (.*)$", block, re.MULTILINE),
        *re.split(r"^# .*\n", block, flags=re.MULTILINE)[1:],
    )
    return dict(zip(headings, [body.splitlines() for body in bodies], strict=True))


def sources() -> dict[str, dict[str, Any]]:
    """Heading -> its source: `CASE, KEY=VALUE`; behind `also` the keys of the heading before it hold, too."""
    sections: dict[str, dict[str, Any]] = {}
    before: dict[str, Any] = {}
    for heading in shown():
        case, _, settings = heading.partition(", ")
        inter, items = FILES.get(case, ("inter.csv", "items.csv"))
        keys = eval(f"dict({settings.removeprefix('also ')})", {"dict": dict})  # of our own documents
        before = {**(before if settings.startswith("also ") else {}), **keys}
        files = {"interactions": f"../shared/cases/{case}/{inter}", "items": f"../shared/cases/{case}/{items}"}
        sections[heading] = {"role": "downstream", **files, **before}
    return sections


def test_each_case_is_shown() -> None:
    cases = {path.name for path in shared_directory("cases").iterdir() if path.is_dir()}
    assert {heading.partition(",")[0] for heading in shown()} == cases


@pytest.mark.parametrize("heading", sources())
def test_what_is_shown_is_what_is_printed(
    heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shared").symlink_to(shared_directory("cases").parent)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    corpus = {"sources": {"shop": sources()[heading]}, "k_core": 0, "candidates": {"protocols": []}}
    Path("config.py").write_text(
        f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps({'corpus': corpus}))})\n"
    )
    cli.main(["prepare", "--config=config.py", "--workdir=work"])
    assert capsys.readouterr().err.splitlines() == shown()[heading]
