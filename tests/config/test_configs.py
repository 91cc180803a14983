"""Every file of `configs/` is a config, or says that it is none."""

import pytest

from cprec_jax import cli
from cprec_jax.config.root import make_config
from tests.conftest import ROOT

FILES = sorted((ROOT / "configs").rglob("*.py"))
ARGUMENTS = {"amazon7.py": ("stories",), "baselines.py": ("loo", "published,Beauty"), "sft.py": ("ml1m,60",)}
NO_CONFIGS = ["model_shapes.py"]


@pytest.mark.parametrize(
    "location",
    [
        f"{path}:{argument}".removesuffix(":")
        for path in FILES
        if path.name not in NO_CONFIGS
        for argument in ("", *ARGUMENTS.get(path.name, ()))
    ],
)
def test_every_config_loads(location: str) -> None:
    assert make_config(cli.load_config(location, {})).name


def test_files_that_are_none_say_so() -> None:
    named = [path.name for path in FILES if "no config itself" in path.read_text(encoding="utf-8")]
    assert named == NO_CONFIGS
