"""Exports of runs that trained an adapter: merged, and for PEFT, which gets the run that it started from, too."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cprec_jax.config.root import make_config
from cprec_jax.errors import UserError
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.hf.save import save
from cprec_jax.train.leaves import by_name
from cprec_jax.train.restore import restore_decoder
from tests import road
from tests import run_jobs as jobs
from tests.model.tiny import tiny

pytestmark = pytest.mark.slow

SHAPE = {"hidden_size": 24, "intermediate_size": 56, "num_heads": 6, "num_layers": 2}
LORA = {"rank": 5, "alpha": 3.5}
RUNS = {"cpt": {}, "low": {"start": "cpt", "lora": LORA}, "next": {"start": "low", "lora": LORA}}


def config(**export: Any) -> dict[str, Any]:
    train = {
        "steps": 2,
        "milestones": [],
        "checkpoint_every": 100,
        "schedule": {"peak": 1e-1, "warmup": 0.0},
        "loggers": ("jsonl",),
    }
    made = road.config(train=train, model={"dropout": 0.0})
    return {
        **made,
        "runs": RUNS,
        "export": export,
        "evaluate": {**made["evaluate"], "names": {"random": {"kind": "random"}}},
    }


BOTH = config(runs=("next",), lora=("merged", "adapter"))


@pytest.fixture(scope="module")
def exported(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("exported") / "road"
    shutil.copytree(tiny_rows, workdir)
    jobs.run(BOTH, workdir, ["export/next", "export/next.adapter"])
    return workdir


def test_the_adapter_comes_with_the_run_that_is_its_base(exported: Path) -> None:
    """`next` goes on with the adapter of `low`, so its base is `cpt`, which the config does not ask for."""
    assert sorted(path.name for path in (exported / "export").iterdir()) == ["cpt", "next", "next.adapter"]
    written = json.loads((exported / "export/next.adapter/adapter_config.json").read_text())
    assert written == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str((exported / "export/cpt").resolve()),
        "revision": None,
        "inference_mode": True,
        "r": 5,
        "lora_alpha": 3.5,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "lora_bias": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
    }
    tensors = load_file(exported / "export/next.adapter/adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 7 and all(name.startswith("base_model.model.model.layers.") for name in tensors)
    assert tensors["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"].shape == (5, 64)
    assert tensors["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"].shape == (32, 5)
    card = (exported / "export/next.adapter/README.md").read_text()
    assert (
        "library_name: peft" in card
        and "rank 5, alpha 3.5" in card
        and "rank 5" in (exported / "export/next/README.md").read_text()
    )
    assert (exported / "export/next.adapter/tokenizer.json").exists()


def test_merged_is_base_and_adapter(exported: Path) -> None:
    """Each as it lies on the disk: the whole model, and the adapter read back onto the export of its base."""
    whole = exported / "export/next"
    ours = by_name(load_params(whole, read_config(whole)))
    adapted = exported / "export/next.adapter"
    sums = by_name(load_params(adapted, read_config(adapted)))
    base = by_name(load_params(exported / "export/cpt", read_config(whole)))
    stored = by_name(restore_decoder(exported / "runs/next").params)
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, stored[name], err_msg=name)
        np.testing.assert_allclose(leaf, sums[name], atol=1e-7, err_msg=name)
    assert np.abs(ours["layers/mlp/down"] - base["layers/mlp/down"]).max() > 1e-3


def test_a_finished_export_is_current(exported: Path) -> None:
    found = jobs.states(BOTH, exported)
    assert {name: found[name].word for name in found if name.startswith("export/")} == dict.fromkeys(
        ("export/next", "export/cpt", "export/next.adapter"), "current"
    )
    assert [name for name in jobs.states(config(runs=("low", "cpt")), exported) if name.startswith("export/")] == [
        "export/low",
        "export/cpt",
    ]


def test_another_checkpoint_than_the_one_it_was_trained_on_is_no_base(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "road")
    with pytest.raises(
        UserError,
        match=r"was trained on another base than step 0 of cpt, which is exported \(.* differ\); leave config",
    ):
        jobs.run(config(runs=("low",), lora=("adapter",), step=0), tmp_path / "road", ["export/low.adapter"])


def test_an_adapter_of_random_weights_is_refused_at_the_door() -> None:
    made = config(runs=("low",), lora=("adapter",))
    with pytest.raises(
        UserError, match=r"config.export.lora: the base of 'low' is a new model that no one else has"
    ) as caught:
        make_config({**made, "runs": {"low": {"lora": LORA}}})
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"config.export: lora \(\): give 'merged', 'adapter', or both"):
        make_config(config(lora=()))


@pytest.mark.torch
def test_peft_loads_it_onto_the_exported_base(exported: Path) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    import transformers

    tokens = torch.tensor(np.random.default_rng(0).integers(0, 400, (2, 24)))
    model = peft.AutoPeftModelForCausalLM.from_pretrained(exported / "export/next.adapter")
    whole = transformers.AutoModelForCausalLM.from_pretrained(exported / "export/next")
    through_transformers = transformers.AutoModelForCausalLM.from_pretrained(exported / "export/next.adapter")
    transformers.AutoTokenizer.from_pretrained(exported / "export/next.adapter")
    with torch.no_grad():
        expected = whole(tokens).logits
        for one in (model, through_transformers):
            np.testing.assert_allclose(one(tokens).logits, expected, atol=1e-4)


def hub_like(workdir: Path) -> Path:
    """A base model as somebody else published it, with the tokenizer of the rows."""
    decoder, params = tiny(vocab_size=448, **SHAPE)
    save(
        workdir / "base",
        params,
        decoder.config,
        workdir / "rows/cpt/tokenizer",
        "---\nlicense: apache-2.0\n---\n# Base\n",
    )
    return workdir / "base"


def of_base(directory: Path, **text: Any) -> dict[str, Any]:
    made = config(lora=("adapter",))
    made["text"] = {"template": made["text"]["template"], **text}
    one_step = {**made["train"], "steps": 1}
    return {
        **made,
        "model": {"init_from": str(directory)},
        "runs": {"low": {"lora": LORA}},
        "train": one_step,
        "export": {"lora": ("adapter",)},
    }


def test_the_base_of_a_run_from_a_base_model_is_that_model_if_nothing_was_added_to_it(workdir: Path) -> None:
    base = hub_like(workdir)
    jobs.run(of_base(base), workdir, ["export/low.adapter"])
    written = json.loads((workdir / "export/low.adapter/adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(base.resolve()) and not (workdir / "export/base").exists()
    with_new = of_base(base, new_tokens=["<|{scope}|>"])
    with pytest.raises(
        UserError,
        match=r"was trained on another base than .*base \(embed differ\); new tokens may have rows of their own",
    ):
        jobs.run(with_new, workdir, ["export/low.adapter"])


def test_a_run_starts_from_an_adapter_as_it_is_exported(workdir: Path) -> None:
    """By `init_from`, with the tokenizer of the adapter's directory or, where that has none, of its base; with an
    adapter of its own."""
    base = hub_like(workdir)
    jobs.run(of_base(base), workdir, ["export/low.adapter"])
    adapter = workdir / "adapter"
    shutil.copytree(workdir / "export/low.adapter", adapter)
    for path in adapter.iterdir():
        if not path.name.startswith("adapter_"):
            path.unlink()
    made = of_base(adapter)
    merged = by_name(restore_decoder(workdir / "runs/low").params)
    jobs.run(made, workdir, ["runs/low"])
    for name, leaf in by_name(restore_decoder(workdir / "runs/low", step=0).params).items():
        np.testing.assert_allclose(leaf, merged[name], atol=1e-7, err_msg=name)
    assert (
        "apache-2.0" in (workdir / "runs/low/base/README.md").read_text()
        and (workdir / "runs/low/base/config.json").exists()
    )
    recorded = json.loads((workdir / "runs/low/manifest.json").read_text())["made_from"]["files"]
    assert {name.rpartition(": ")[2] for name in recorded} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "model.safetensors",
    }
    with pytest.raises(UserError, match=r"the base of low is an adapter itself \(.*\); export it merged"):
        jobs.run(made, workdir, ["export/low.adapter"])
