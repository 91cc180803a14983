"""Who may import whom: rooms import rooms below them, and no two files import each other in a circle."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the bottom to the top. What lies directly in cprec_jax/ ("") and `config` may import each other.
ROOMS = (
    "config",
    "",
    "launcher",
    "parallel",
    "model",
    "text",
    "rows",
    "hf",
    "inference",
    "train",
    "evaluate",
    "methods",
    "report",
    "jobs",
    "cli",
)
PACKAGE = ROOT / "cprec_jax"


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in files()}


def room_of(module: str) -> str:
    parts = module.split(".")
    if parts[-1] == "cli":
        return "cli"
    return parts[1] if len(parts) > 2 or (PACKAGE / parts[-1]).is_dir() else ""


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name in MODULES and MODULES[name].name != "__init__.py"}


def test_every_folder_is_a_room() -> None:
    folders = {path.relative_to(PACKAGE).parts[0] for path in files() if path.parent != PACKAGE}
    assert folders == set(ROOMS) - {"", "cli"}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_rooms_below(room: str) -> None:
    below = max(ROOMS.index(room), ROOMS.index(""))
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        if room_of(module) == room
        for other in sorted(imports_of(path))
        if ROOMS.index(room_of(other)) > below
    ]
    assert not wrong


def test_no_two_files_import_each_other_in_a_circle() -> None:
    graph = {module: imports_of(path) for module, path in MODULES.items()}
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in sorted(graph[module]):
                walk(other, (*way, module))
            done.add(module)

    for module in graph:
        walk(module, ())


def test_config_and_launcher_import_no_jax() -> None:
    for module, path in MODULES.items():
        if room_of(module) in ("config", "launcher"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
            names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not {name for name in names if name.split(".")[0] in ("jax", "flax", "optax")}, module


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in ("", "cli")])
def test_tests_mirror_the_rooms(room: str) -> None:
    assert (ROOT / "tests" / room).is_dir()


# Libraries that few files may know, with those files.
KNOWN_BY = {
    "orbax": ("cprec_jax/train/checkpoint.py", "cprec_jax/train/read_back.py"),
    "etils": ("cprec_jax/train/copies.py",),
    "grain": ("cprec_jax/rows/",),
    "tensorflow_datasets": ("cprec_jax/rows/", "data_prep/adapters/tfds.py"),
    "duckdb": ("data_prep/engine.py",),
    "pyspark": ("data_prep/spark_engine.py",),
    "sqlglot": ("data_prep/spark_engine.py",),
    "safetensors": ("cprec_jax/hf/",),
    "huggingface_hub": ("cprec_jax/hf/",),
    "transformers": ("cprec_jax/text/tokenizer_files.py",),
}


def test_libraries_are_known_by_few_files() -> None:
    wrong = []
    for path in [*files(), *(ROOT / "data_prep").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            file = path.relative_to(ROOT).as_posix()
            wrong += [
                f"{file} imports {name}"
                for name in names
                if (allowed := KNOWN_BY.get(name.split(".")[0])) is not None and not file.startswith(allowed)
            ]
    assert not wrong
