"""What the documents name exists: config keys, files of the repository, options of launch.py, targets of make."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from cprec_jax import cli
from cprec_jax.config.root import SECTIONS, make_config, section_classes
from cprec_jax.config.source import SourceSpec
from tests.conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = [ROOT / "cprec_jax/cli.py", *sorted((ROOT / "configs").rglob("*.py"))]
FREE = ("runs", "corpus.times", "corpus.sources", "evaluate.names")  # mappings by names of the user's
OURS = ("cprec_jax", "data_prep", "configs", "benchmarks", "docs", "tests")


def section(name: str) -> Any:
    return section_classes()[name]


def exists(key: str) -> bool:
    """Whether `section.key.key` is a field of the section's dataclass, or of one inside."""
    name, *rest = key.split(".")
    if name == "name":
        return not rest
    if name not in SECTIONS:
        return False
    hints = [section(name)]
    for depth, part in enumerate(rest):
        if ".".join([name, *rest[:depth]]) in FREE:
            return True
        choices = [
            typing.get_type_hints(hint)[part]
            for hint in hints
            if part in {field.name for field in dataclasses.fields(hint)}
        ]
        if not choices:
            return False
        hints = [
            choice for hint in choices for choice in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(choice)
        ]
    return True


def matches(pattern: str, paths: list) -> Iterator[tuple[str, str]]:
    for path in paths:
        for match in re.finditer(pattern, path.read_text(encoding="utf-8")):
            yield str(path.relative_to(ROOT)), match[1]


def test_config_keys() -> None:
    keys = set(matches(r"(?<![\w/.])config\.([a-z_]+(?:\.[a-z_0-9]+)*)(?!\.?\w*\()(?!\.json)", [*DOCUMENTS, *CONFIGS]))
    absent = sorted((path, key) for path, key in keys if key not in ("json", "section.key") and not exists(key))
    assert len(keys) > 60 and absent == []
    assert not exists("train.sead") and not exists("evaluate.sequential.hiden") and exists("evaluate.sequential.hidden")


def test_files() -> None:
    files = set(matches(rf"`((?:{'|'.join(OURS)})/[\w/.-]+\.(?:py|md|sql))", DOCUMENTS))
    files |= set(
        matches(rf"(?:python|--config=|-m pytest[\w= -]*) ?((?:{'|'.join(OURS)})/[\w/.-]+\.py)", [*DOCUMENTS, *CONFIGS])
    )
    absent = sorted(
        (path, file) for path, file in files if not (ROOT / file).is_file() and not file.endswith("/mine.py")
    )
    assert len(files) > 30 and [(path, file) for path, file in absent if file not in ("configs/FILE.py",)] == []


def test_commands() -> None:
    jobs = {*cli.JOBS, "compare"}
    used = set(matches(r"launch\.py ([a-z]+)", [*DOCUMENTS, *CONFIGS]))
    assert {job for _, job in used} <= jobs and {job for _, job in used} > {"prepare", "train", "evaluate", "compare"}
    known = {*cli.OPTIONS, *cli.COMPARE_OPTIONS, "help"}
    for path, line in matches(r"launch\.py ((?:[a-z]+)(?: [^\n`]*)?)", [*DOCUMENTS, *CONFIGS]):
        options = {option for option in re.findall(r"--([a-z_.-]+)", line) if not option.startswith("config.")}
        assert options <= known, (path, line)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {target for _, target in matches(r"`?make ([a-z]+(?:-[a-z]+)?)`", DOCUMENTS)} <= targets


def test_configs_in_the_readme_are_configs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    block_of_config = next(block for block in blocks if "def get_config" in block)
    names: dict[str, Any] = {}
    exec(block_of_config, names)
    config = names["get_config"]()
    make_config(config.to_dict())
    exec(next(block for block in blocks if "config.evaluate" in block), {"config": config})
    make_config(config.to_dict())
    kinds = {row["kind"] for row in config.evaluate["names"].values()}
    assert kinds == {"checkpoint", "hf", "markov", "item_knn", "text_knn", "sasrec", "ensemble", "scores"}
    mixing = next(block for block in blocks if "anneal_mixture" in block)
    exec(mixing, {"config": config})
    make_config(config.to_dict())
    assert config.train.mixture["weights"].to_dict() == {"Books": 2.0}


@pytest.mark.parametrize(
    "key", ["urls", "columns", "tfds_split", "language", "order", "time_unit", "format", "k_core", "split"]
)
def test_keys_of_a_source_that_the_documents_explain(key: str) -> None:
    assert key in {field.name for field in dataclasses.fields(SourceSpec)}
