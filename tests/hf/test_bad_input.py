"""A base model that cannot be used: one clear line and exit code 2 from the front door, before anything is trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cprec_jax import cli
from cprec_jax.hf.save import save
from tests import road
from tests.model.tiny import tiny


@pytest.fixture(scope="module")
def base_model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path) -> Path:
    decoder, params = tiny(vocab_size=448)
    target = tmp_path_factory.mktemp("base") / "base"
    save(target, params, decoder.config, tiny_rows / "rows/cpt/tokenizer", "card", shard_bytes=60_000)
    return target


def config_key(**changes: object) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        raw = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**raw, **changes}))

    return change


def truncate(base: Path) -> None:
    file = sorted(base.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-10])


def lose_a_shard(base: Path) -> None:
    sorted(base.glob("*.safetensors"))[1].unlink()


def only_a_pickle(base: Path) -> None:
    for file in base.glob("*.safetensors*"):
        file.unlink()
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def larger_tokenizer(base: Path) -> None:
    raw = json.loads((base / "tokenizer.json").read_text())
    raw["added_tokens"].append({**raw["added_tokens"][0], "id": 500, "content": "<more>"})
    (base / "tokenizer.json").write_text(json.dumps(raw))


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated file": (truncate, "model-00002-of-00003.safetensors: damaged or truncated"),
    "absent shard": (lose_a_shard, "model-00002-of-00003.safetensors: not found, but the index names it"),
    "config against tensors": (
        config_key(intermediate_size=52),
        "gate_proj.weight has shape (48, 32), config.json says (52, 32)",
    ),
    "more layers": (config_key(num_hidden_layers=4), "the checkpoint lacks: model.layers.3."),
    "larger tokenizer": (larger_tokenizer, "the tokenizer has 501 tokens, the embedding only 448 rows"),
    "only a pickle": (only_a_pickle, "has only pytorch_model.bin (a pickle, which can run code)"),
    "another family": (config_key(model_type="mixtral"), "model_type 'mixtral' is not supported; supported: llama"),
    "mixture of experts": (config_key(num_local_experts=8), "num_local_experts = 8 is not supported"),
    "another activation": (config_key(hidden_act="relu"), "hidden_act = 'relu' is not supported"),
    "another rope": (
        config_key(rope_scaling={"rope_type": "yarn", "factor": 2.0}, rope_parameters=None),
        "rope type 'yarn'",
    ),
    "remote code": (config_key(auto_map={"AutoModel": "modeling.X"}), "auto_map"),
    "no directory": (shutil.rmtree, "base: no such directory"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_exit_code_2(
    name: str, base_model_dir: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = CASES[name]
    base = workdir / "base"
    shutil.copytree(base_model_dir, base)
    change(base)
    config = {**road.CONFIG, "model": {"init_from": str(base)}}
    (workdir / "config.py").write_text(
        f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(config))})\n"
    )
    assert cli.main(["train", f"--config={workdir / 'config.py'}", f"--workdir={workdir}"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and "Traceback" not in errors[0]
    assert not (workdir / "runs/cpt/checkpoints").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": "1.0", "model": {"type"'], ids=["empty", "a list", "no model", "cut"]
)
def test_a_damaged_tokenizer_of_the_base_model_is_one_mistake(
    content: str, base_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pack` and `train` both look at it."""
    base = tmp_path / "base"
    shutil.copytree(base_model_dir, base)
    (base / "tokenizer.json").write_text(content)
    config = {**road.CONFIG, "text": {"tokenizer": str(base)}, "model": {"init_from": str(base)}}
    (tmp_path / "config.py").write_text(
        f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(config))})\n"
    )
    assert cli.main(["status", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"{base}: not a usable tokenizer" in error
