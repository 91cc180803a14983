"""The golden values: what the training step gave when it was last judged right, by version of jax, and how to judge a
difference."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import pytest

FILE = Path(__file__).with_name("values.json")
RECORD = "CPREC_GOLDEN"  # =record writes the file instead of comparing with it


def check(name: str, found: Mapping[str, Any], relative: float) -> None:
    """Compare numbers, lists of numbers and texts with those recorded for this version of jax, numbers to
    `relative`."""
    versions = json.loads(FILE.read_text(encoding="utf-8"))
    if os.environ.get(RECORD) == "record":
        versions.setdefault(jax.__version__, {})[name] = {"made_on": machine(), **found}
        FILE.write_text(json.dumps(versions, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return
    expected = dict(versions.get(jax.__version__, {}).get(name, {}))
    if not expected:
        pytest.fail(f"tests/golden/values.json has no {name!r} of jax {jax.__version__}; {_how_to_record(name)}")
    made_on = expected.pop("made_on")
    assert found.keys() == expected.keys(), f"{name}: other values are recorded than measured; {_how_to_record(name)}"
    for key, value in found.items():
        same = (
            value == expected[key]
            if isinstance(value, str)
            else value == pytest.approx(expected[key], rel=relative, abs=0)
        )
        if not same:
            pytest.fail(_message(name, key, expected[key], value, made_on, relative))


def machine() -> str:
    """Which CPU, system and jax made a value."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return (
        f"{model}, {platform.system()} {platform.machine()}, Python {platform.python_version()}, jax {jax.__version__}"
    )


def _message(name: str, key: str, expected: Any, found: Any, made_on: str, relative: float) -> str:
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        index, (was, now) = next(
            (i, pair)
            for i, pair in enumerate(zip(expected, found, strict=True))
            if pair[1] != pytest.approx(pair[0], rel=relative, abs=0)
        )
        what = f"{key}[{index}] is {now!r}, was {was!r}"
    else:
        what = f"{key} is {found!r}, was {expected!r}"
    return (
        f"golden {name}: {what} (to {relative:g} relative).\n"
        f"  made on:  {made_on}\n"
        f"  found on: {machine()}\n"
        "How to judge it:\n"
        "  1. Another CPU rounds otherwise. Run this test on the commit before yours, on this machine: where that "
        "differs from the file\n"
        "     by the same, it is the machine (a few 1e-6 at most), and nothing is wrong with your change.\n"
        "  2. A change that only moves or renames things must not come here: it is a mistake, find it. Do not relax "
        "the tolerance.\n"
        "  3. A change that is meant to change numbers says so in its commit message, with the values before and "
        "after and why they are\n"
        f"     right (a closed form, another implementation, a paper); then {_how_to_record(name)}"
    )


def _how_to_record(name: str) -> str:
    return (
        f"record them: {RECORD}=record python -m pytest tests/golden (in each environment that requirements.txt "
        "supports)"
    )
