"""Runs that train an adapter: what is trained, saved, gone on with and refused."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cprec_jax.config.lora import LoraSpec
from cprec_jax.config.train import OptimizerSpec
from cprec_jax.errors import UserError
from cprec_jax.model.decoder import abstract_params
from cprec_jax.model.lora import is_adapter, merged
from cprec_jax.parallel import rules
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.leaves import by_name, merge, split
from cprec_jax.train.lora import adapters_of, as_read, base_names, fresh_adapter
from cprec_jax.train.objectives.cpt import Cpt
from cprec_jax.train.optimizer import make_optimizer
from cprec_jax.train.restore import restore_decoder, restore_stored
from cprec_jax.train.state import new_state
from cprec_jax.train.step import train_step
from tests import road
from tests import run_jobs as jobs
from tests.model.tiny import one_segment, tiny, tiny_config

pytestmark = pytest.mark.slow  # whole runs, which are trained for it; CI runs them

RANK = 5
LORA: dict[str, Any] = {"rank": RANK, "alpha": 10.0}
# Dropout and matrices in bfloat16: what is saved and summed must be the base's own float32.
LOW: dict[str, Any] = {
    "start": "cpt",
    "lora": {**LORA, "dropout": 0.1},
    "train": {"steps": 4},
    "model": {"dtype": "bfloat16"},
}


def config(runs: dict[str, Any]) -> dict[str, Any]:
    train = {
        "steps": 2,
        "milestones": [],
        "checkpoint_every": 2,
        "schedule": {"peak": 3e-3, "warmup": 0.0},
        "loggers": ("jsonl",),
    }
    made = road.config(train=train, model={"dropout": 0.0})
    return {
        **made,
        "runs": runs,
        "export": None,
        "evaluate": {**made["evaluate"], "names": {"random": {"kind": "random"}}},
    }


RUNS = {"cpt": {}, "low": LOW}


@pytest.fixture(scope="module")
def trained(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("lora") / "road"
    shutil.copytree(tiny_rows, workdir)
    jobs.run(config(RUNS), workdir, ["runs/low"])
    return workdir


def copy_of(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def digest(workdir: Path, name: str) -> str:
    return json.loads((workdir / "runs" / name / "manifest.json").read_text())["params_sha256"]


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_the_adapter_alone_is_trained_and_saved_and_the_base_once_in_float32(trained: Path) -> None:
    opened = Checkpoints(trained / "runs/low/checkpoints", read_only=True)
    metadata = opened._manager.item_metadata(4)
    names = set(by_name(metadata["params"].tree))
    assert names and all(map(is_adapter, names)) and opened.meta(4)["base_sha256"]
    moments = [name for name in by_name(metadata["opt_state"].tree) if "/mu/" in name or "/nu/" in name]
    assert len(moments) == 2 * len(names)
    opened.close()
    first, last = (by_name(restore_stored(trained / "runs/low", step=step).params) for step in (0, 4))
    base = by_name(restore_decoder(trained / "runs/cpt").params)
    assert {name for name in last if not is_adapter(name)} == base.keys()
    assert all(np.array_equal(last[name], base[name]) and last[name].dtype == np.float32 for name in base)
    assert all(np.array_equal(first[name], last[name]) != is_adapter(name) for name in last)
    assert same(restore_decoder(trained / "runs/low", step=0).params, restore_decoder(trained / "runs/cpt").params)


def test_what_others_read_is_base_plus_adapter(trained: Path) -> None:
    found, stored = restore_decoder(trained / "runs/low"), restore_stored(trained / "runs/low")
    assert found.decoder.adapters is None and not any(map(is_adapter, by_name(found.params)))
    a, b = (np.asarray(stored.params["layers"]["mlp"][f"down_lora_{part}"], np.float64) for part in "ab")
    w = np.asarray(stored.params["layers"]["mlp"]["down"], np.float64)
    np.testing.assert_allclose(found.params["layers"]["mlp"]["down"], w + 10 / RANK * a @ b, rtol=0, atol=1e-7)
    assert np.abs(a @ b).max() > 1e-5


def test_a_killed_run_goes_on_with_the_same_bits(trained: Path, tmp_path: Path) -> None:
    workdir = copy_of(trained, tmp_path)
    (workdir / "runs/low/manifest.json").unlink()
    shutil.rmtree(workdir / "runs/low/checkpoints/4")
    jobs.train(config(RUNS), workdir)
    assert digest(workdir, "low") == digest(trained, "low")
    assert same(restore_stored(workdir / "runs/low").params, restore_stored(trained / "runs/low").params)


def test_an_adapter_of_another_base_is_refused(trained: Path, tmp_path: Path) -> None:
    workdir = copy_of(trained, tmp_path)
    directory = workdir / "runs/low/checkpoints"
    _, base = split(
        restore_stored(workdir / "runs/low").params, base_names(restore_stored(workdir / "runs/low").params)
    )
    shutil.rmtree(directory / "frozen")
    store = Checkpoints(directory)
    store.keep_frozen({**base, "final_norm": base["final_norm"] * 1.5})
    store.close()
    with pytest.raises(UserError, match=r"checkpoints: the adapter in it was trained on another base \(sha256 "):
        restore_decoder(workdir / "runs/low")
    (workdir / "runs/low/manifest.json").unlink()
    with pytest.raises(UserError, match="was trained on another base"):
        jobs.train(config(RUNS), workdir)


def test_a_run_goes_on_with_the_adapter_of_another_or_trains_the_sum(trained: Path, tmp_path: Path) -> None:
    workdir = copy_of(trained, tmp_path)
    whole = {"start": "low", "train": {"steps": 1}}
    runs = {**RUNS, "next": {**LOW, "start": "low", "lora": LORA, "train": {"steps": 1}}, "whole": whole}
    jobs.run(config(runs), workdir, ["runs/next", "runs/whole"])
    assert same(restore_stored(workdir / "runs/next", step=0).params, restore_stored(trained / "runs/low").params)
    assert same(restore_decoder(workdir / "runs/whole", step=0).params, restore_decoder(trained / "runs/low").params)
    assert not (workdir / "runs/whole/checkpoints/frozen").exists()
    on = {**LOW, "start": {"run": "low", "step": 2}, "train": {"steps": 2, "schedule": {"anneal": 1.0}}}
    stable = {**LOW, "train": {"steps": 4, "schedule": {"anneal": 0.5, "warmup": 0.0}}}
    jobs.run(config({"cpt": {}, "low": stable, "on": on}), workdir, ["runs/on"])
    assert digest(workdir, "on") == digest(workdir, "low"), "with its moments it is the unbroken run"


@pytest.mark.parametrize("change", [{"rank": 4}, {"alpha": 20.0}, {"targets": ("layers/mlp/*",)}, {"rslora": True}])
def test_another_adapter_than_that_of_the_start_is_refused(
    change: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    workdir = copy_of(trained, tmp_path)
    runs = {**RUNS, "next": {**LOW, "start": "low", "lora": {**LORA, **change}}}
    with pytest.raises(
        UserError, match=r"next: starts from low, whose adapter has rank=5, alpha=10.0, .*, and its own has "
    ) as caught:
        jobs.run(config(runs), workdir, ["runs/next"])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ("layers/mlp/gates",),
            r"targets: 'layers/mlp/gates' matches no linear layer; did you mean 'layers/mlp/gate'\?",
        ),
        (("layers/attention/q", "q_proj"), r"'q_proj' matches no linear layer; known: layers/attention/k, "),
        (("layers/*norm",), "matches no linear layer"),
        (("lm_head",), r"'lm_head' is the embedding, which is also the head of this model \(tied\)"),
        (("embed",), r"'embed' is the embedding, which is also the head of this model \(tied\)"),
    ],
)
def test_targets_that_cannot_have_an_adapter(targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        adapters_of(LoraSpec(targets=targets), tiny_config(), "config.runs.low.lora")
    untied = tiny_config(tie_embeddings=False)
    if targets == ("lm_head",):
        with pytest.raises(UserError, match="is the embedding or the head; only the linear layers"):
            adapters_of(LoraSpec(targets=targets), untied)


def test_default_targets_are_all_linear_layers() -> None:
    found = adapters_of(
        LoraSpec(rank=16, alpha=8.0, rslora=True), tiny_config(attention_bias=True, mlp_bias=True, qk_norm="head")
    )
    assert found.weights == (*(f"attention/{name}" for name in "koqv"), "mlp/down", "mlp/gate", "mlp/up")
    assert found.scale == 2.0 and adapters_of(LoraSpec(rank=16, alpha=8.0), tiny_config()).scale == 0.5


def test_what_is_trained_is_said(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is compiled: patterns that match nothing end it there, too."""
    from cprec_jax.config.root import make_config
    from cprec_jax.train import initial_state, prepared_run

    plan = jobs.make_plan(config({"one": {"lora": LORA}}), workdir)
    initial_state.say_what_is_trained(plan)
    said = capsys.readouterr().err
    trained = sum(leaf.size for name, leaf in by_name(abstract_params(plan.decoder)[0]).items() if is_adapter(name))
    assert f"{trained:,} adamw" in said and "frozen" in said and "layers/mlp/down_lora_a" in said
    made = make_config(config({"one": {"lora": {"targets": ("layers/moe/*",)}}}))
    with pytest.raises(UserError, match=r"config.runs.one.lora.targets: 'layers/moe/\*' matches no linear layer; "):
        prepared_run.prepare_run(made, workdir, workdir / "runs/one")


def step_on(mesh: jax.sharding.Mesh, steps: int = 2) -> tuple[Any, float]:
    """The parameters, adapter and base apart, after some steps on a mesh, and the last loss."""
    plain, params = tiny(hidden_size=32, intermediate_size=48, num_layers=2)
    decoder = plain.clone(adapters=adapters_of(LoraSpec(rank=RANK, alpha=10.0), plain.config))
    shapes, axes = abstract_params(decoder)
    names = base_names(shapes)
    own_axes = by_name(axes, is_leaf=lambda one: isinstance(one, tuple))
    optimizer = make_optimizer(
        OptimizerSpec(), optax.constant_schedule(1e-2), {k: v for k, v in own_axes.items() if k not in names}
    )
    tokens, positions, (segments,) = one_segment(np.random.default_rng(0).integers(0, 64, (8, 16)))
    batch = {"tokens": tokens, "positions": positions, "segment_ids": segments, "loss_mask": jnp.ones(tokens.shape)}
    with jax.set_mesh(mesh):
        frozen = jax.device_put(params, rules.param_shardings(mesh, *abstract_params(plain)))
        state = new_state(fresh_adapter(decoder, 0, mesh), optimizer, mesh)
        rows = jax.device_put(batch, rules.batch_sharding(mesh, 8))
        pure = functools.partial(
            train_step,
            objective=Cpt(decoder=decoder, loss_chunk=8),
            optimizer=optimizer,
            schedule=optax.constant_schedule(1e-2),
            micro_batches=1,
            dropout_seed=None,
        )
        step = jax.jit(pure)
        for _ in range(steps):
            state, metrics = step(state, frozen, rows)
        whole = merged(merge(state.trained, frozen), decoder.adapters.scale)
    return jax.device_get((state.trained, whole)), float(metrics["loss"])


def test_one_device_is_eight_devices() -> None:
    (one, whole), loss = step_on(make_mesh(devices=jax.devices()[:1]))
    (eight, whole_of_eight), loss_of_eight = step_on(make_mesh(data=2, fsdp=2, tensor=2))
    assert loss == pytest.approx(loss_of_eight, rel=1e-5)
    for name, leaf in by_name(one).items():
        np.testing.assert_allclose(by_name(eight)[name], leaf, atol=2e-4, err_msg=name)
    for name, leaf in by_name(whole).items():
        np.testing.assert_allclose(by_name(whole_of_eight)[name], leaf, atol=2e-4, err_msg=name)


def test_no_bit_of_the_sum_depends_on_the_devices(trained: Path) -> None:
    eight = restore_decoder(trained / "runs/low", mesh=make_mesh(data=1, fsdp=4, tensor=2)).params
    assert same(jax.device_get(eight), jax.device_get(restore_decoder(trained / "runs/low").params))


def test_the_base_is_read_in_the_dtype_of_the_computation_and_norms_are_not() -> None:
    _, params = tiny()
    read = by_name(as_read(jax.tree.map(jnp.copy, dict(params)), jnp.dtype("bfloat16")))
    assert {name for name, leaf in read.items() if leaf.dtype == jnp.float32} == {
        name for name in read if name.endswith("norm")
    }
    assert read["embed"].dtype == jnp.bfloat16
