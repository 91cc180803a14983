"""What `pip install .` brings: the pins of requirements*.txt, every package and SQL file, and the command `cprec`."""

import tomllib
from importlib import import_module

import pytest

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(file: str) -> list[str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("extra", ["spark", "wandb", "torch", "gcs"])
def test_extras_have_the_pins_of_their_requirements(extra: str) -> None:
    assert PROJECT["project"]["optional-dependencies"][extra] == pins(f"requirements-{extra}.txt")


@pytest.mark.parametrize("device", ["cuda12", "cuda13", "tpu"])
def test_devices_are_extras_of_jax(device: str) -> None:
    assert PROJECT["project"]["optional-dependencies"][device] == [f"jax[{device}]"]  # which requirements.txt pins


def test_dependencies_are_the_pinned_requirements() -> None:
    assert PROJECT["project"]["dynamic"] == ["dependencies"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["dependencies"]["file"] == ["requirements.txt"]
    assert all("==" in pin for pin in pins("requirements.txt"))


def test_every_folder_with_modules_is_a_package() -> None:
    """A folder without `__init__.py` would be left out of the wheel."""
    folders = {path.parent for package in ("cprec_jax", "data_prep") for path in (ROOT / package).rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["cprec_jax*", "data_prep*"]


def test_all_files_that_are_no_modules_are_named() -> None:
    others = [
        path
        for package in ("cprec_jax", "data_prep")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert others and {path.parent for path in others} == {ROOT / "data_prep/sql"}
    assert {path.suffix for path in others} == {".sql"}
    assert PROJECT["tool"]["setuptools"]["package-data"] == {"data_prep": ["sql/*.sql"]}


def test_the_command_is_the_main_of_launch() -> None:
    module, _, function = PROJECT["project"]["scripts"]["cprec"].partition(":")
    assert getattr(import_module(module), function) is import_module("launch").command
