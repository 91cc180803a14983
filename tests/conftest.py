"""Eight CPU devices for every test, and quick compiles, set before jax is imported anywhere."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Most of the time goes into compiling small programs once; less of LLVM's work saves a fifth of it. Level 0 would round
# otherwise: a sharded step then differs from an unsharded one by more than the tests allow.
FLAGS = "--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=1"
os.environ["XLA_FLAGS"] = " ".join((*FLAGS, os.environ.get("XLA_FLAGS", "")))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests compile the same small programs again and again: they, and the processes that they start, share what is
# compiled. The first process makes the folder, and starts the others.
COMPILED = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="cprec-compiled-")
if COMPILED is not None:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# A busy machine is slow, which says nothing about a property; and no property here depends on what a fixture was left
# like. The same examples in every run, so that a failure is of the change at hand; CPREC_FUZZ=1 looks for new ones.
settings.register_profile(
    "cprec_jax",
    deadline=None,
    derandomize=os.environ.get("CPREC_FUZZ") is None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("cprec_jax")

ROOT = Path(__file__).resolve().parents[1]


def pytest_unconfigure() -> None:
    if COMPILED is not None:
        shutil.rmtree(COMPILED, ignore_errors=True)


def shared_directory(name: str) -> Path:
    """A folder of third-party files beside the checkout (`../shared/NAME`, or `$CPREC_SHARED/NAME`); skips the test
    when absent."""
    path = Path(os.environ.get("CPREC_SHARED", ROOT.parent / "shared")) / name
    if not path.exists():
        pytest.skip(f"third-party files {path} are absent")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return shared_directory("data")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    return shared_directory("models")


@pytest.fixture(scope="session")
def shared_tokenizers() -> Path:
    return shared_directory("tokenizers")


@pytest.fixture(scope="session")
def tiny_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with the corpus and the rows of `tests.road.CONFIG`. Copy what a test changes."""
    from tests.road import make_rows

    return make_rows(tmp_path_factory.mktemp("road"))


@pytest.fixture
def workdir(tiny_rows: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_rows` that a test may write into."""
    import shutil

    shutil.copytree(tiny_rows, tmp_path / "road")
    return tmp_path / "road"
