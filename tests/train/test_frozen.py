"""Frozen leaves: no step changes them, no moments are held for them, and they are saved once, beside the
checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.leaves import by_name, matching, merge, split
from cprec_jax.train.restore import restore_decoder
from tests import road
from tests.run_jobs import train

PATTERNS = ("embed*", "layers/*_norm")
FROZEN = {"embed", "layers/attention_norm", "layers/mlp_norm"}
CONFIG = road.config(train={"frozen": PATTERNS})


@pytest.fixture(scope="module")
def finished(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("frozen") / "road"
    shutil.copytree(tiny_rows, workdir)
    train(CONFIG, workdir)
    return workdir


def checkpoints(workdir: Path) -> Path:
    return workdir / "runs/cpt/checkpoints"


def digest(workdir: Path) -> str:
    return json.loads((workdir / "runs/cpt/manifest.json").read_text())["params_sha256"]


def items(workdir: Path, step: int) -> dict[str, set[str]]:
    """The leaves in a checkpoint, by item, as they are on disk."""
    opened = Checkpoints(checkpoints(workdir), read_only=True)
    metadata = opened._manager.item_metadata(step)
    found = {item: set(by_name(metadata[item].tree)) for item in ("params", "opt_state")}
    opened.close()
    return found


def test_frozen_leaves_stay_and_all_others_move(finished: Path) -> None:
    before, after = (by_name(restore_decoder(finished / "runs/cpt", step=step).params) for step in (0, 12))
    assert FROZEN < before.keys() == after.keys()
    for name in before:
        assert np.array_equal(before[name], after[name]) == (name in FROZEN), name


def test_they_are_saved_once_and_have_no_moments(finished: Path) -> None:
    found = items(finished, 12)
    assert found["params"].isdisjoint(FROZEN) and "final_norm" in found["params"]
    assert not [name for name in found["opt_state"] if name.endswith(tuple(FROZEN))]
    assert [name for name in found["opt_state"] if name.endswith("mu/final_norm")]
    assert (checkpoints(finished) / "frozen").is_dir()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    """From step 6, and, of frozen leaves that cannot be read, with those that the run starts from."""
    for damaged in (False, True):
        workdir = tmp_path / str(damaged)
        shutil.copytree(finished, workdir)
        (workdir / "runs/cpt/manifest.json").unlink()
        for step in (10, 12):
            shutil.rmtree(checkpoints(workdir) / str(step))
        for path in (checkpoints(workdir) / "frozen").rglob("*") if damaged else ():
            if path.is_file():
                path.write_bytes(path.read_bytes()[:20])
        train(CONFIG, workdir)
        assert digest(workdir) == digest(finished)
        assert (checkpoints(workdir) / "frozen.damaged").exists() == damaged


def test_the_saved_ones_are_taken_not_those_of_another_start(tmp_path: Path) -> None:
    """The trained leaves were trained with them."""
    store = Checkpoints(tmp_path)
    first = {"embed": jax.device_put(np.arange(6.0, dtype=np.float32))}
    assert store.keep_frozen(first) is first
    np.testing.assert_array_equal(store.keep_frozen({"embed": first["embed"] + 1})["embed"], first["embed"])
    with pytest.raises(UserError, match=r"frozen/embed is .*6.* in the checkpoint and .*7.* by the config"):
        store.keep_frozen({"embed": jax.device_put(np.arange(7.0, dtype=np.float32))})
    assert not (tmp_path / "frozen.damaged").exists()


def test_patterns(workdir: Path) -> None:
    with pytest.raises(
        UserError, match=r"config.train.frozen: 'embedding\*' matches no parameter; there are embed, final_norm, "
    ):
        train(road.config(train={"frozen": ("embed", "embedding*")}), workdir)
    with pytest.raises(UserError, match=r"config.train.frozen: nothing is left to train"):
        train(road.config(train={"frozen": ("*",)}), workdir)
    with pytest.raises(UserError, match=r"config.train.optimizer.decayed: 'embed' matches no parameter"):
        train(road.config(train={"frozen": ("embed",), "optimizer": {"decayed": ("embed",)}}), workdir)
    assert not (workdir / "runs").exists()


def test_split_and_merge() -> None:
    tree: dict[str, Any] = {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    rest, chosen = split(tree, matching(("b/d*",), ["a", "b/c", "b/d/e"], "here"))
    assert rest == {"a": 1, "b": {"c": 2}} and chosen == {"b": {"d": {"e": 3}}}
    assert merge(rest, chosen) == tree == merge(tree, {}) and split(tree, ()) == (tree, {})
