"""From a base model with new tokens through a training run to an export that transformers uses."""

import json
from pathlib import Path

import numpy as np
import pytest

from cprec_jax.config.export import ExportSpec
from cprec_jax.errors import UserError
from cprec_jax.hf.save import save
from cprec_jax.inference.generate import generate
from cprec_jax.text import tokenizer
from cprec_jax.train.restore import restore_decoder
from tests import road
from tests import run_jobs as jobs
from tests.model.tiny import tiny

MARKERS = ["<|Books|>", "<|Games|>", "<|Garden|>", "<|all domains|>"]


def base_model(directory: Path, tokenizer_dir: Path, rows: int) -> None:
    """A base model as somebody else published it: with a card, a licence, and two end tokens."""
    decoder, params = tiny(vocab_size=rows, tie_embeddings=False)
    save(directory, params, decoder.config, tokenizer_dir, "---\nlicense: apache-2.0\n---\n# Base\n")
    (directory / "LICENSE").write_text("Take it.")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7], "max_new_tokens": 6}))
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**raw, "eos_token_id": [0, 7]}))


def exported(workdir: Path, rows: int) -> Path:
    base = workdir / "base"
    base_model(base, workdir / "rows/cpt/tokenizer", rows)
    config = road.config(
        text={"tokenizer": str(base), "new_tokens": ["<|{scope}|>"], "template": {"header": "<|{scope}|>"}},
        train={"steps": 2, "milestones": [], "schedule": {"peak": 1e-2, "warmup": 0.0}},
        export={"max_shard_size": "100KB"},
    )
    config["model"] = {"init_from": str(base)}
    jobs.pack(config, workdir)
    jobs.train(config, workdir)
    jobs.export(config, workdir)
    return workdir / "export/cpt"


@pytest.mark.torch
@pytest.mark.parametrize(("rows", "rows_after"), [(448, 448), (400, 512)], ids=["spare rows", "growth"])
def test_new_tokens_from_import_to_transformers(workdir: Path, rows: int, rows_after: int) -> None:
    torch = pytest.importorskip("torch")
    import transformers

    out = exported(workdir, rows)
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    ours = tokenizer.load(out)
    assert [theirs.encode(marker, add_special_tokens=False) for marker in MARKERS] == [[400], [401], [402], [403]]
    text = "<|Games|>Some title\n<|Books|>"
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text).tolist()
    manifest = json.loads((workdir / "rows/cpt/manifest.json").read_text())
    assert manifest["new_tokens"] == dict(zip(MARKERS, range(400, 404), strict=True))

    before, after = (restore_decoder(workdir / "runs/cpt", step=step) for step in (0, 2))
    _, base_params = tiny(vocab_size=rows, tie_embeddings=False)
    for name in ("embed", "lm_head"):
        mean = np.asarray(base_params[name])[:400].mean(0)
        assert before.params[name].shape == (rows_after, 32)
        np.testing.assert_allclose(before.params[name][400:404], np.broadcast_to(mean, (4, 32)), atol=1e-6)
        np.testing.assert_array_equal(before.params[name][:400], base_params[name][:400])
    # a domain's marker is trained
    assert np.abs(after.params["embed"][400:404] - before.params["embed"][400:404]).max() > 1e-3

    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert tuple(model.get_input_embeddings().weight.shape) == (rows_after, 32)
    prompt = ours.encode(text)
    writer = transformers.pipeline("text-generation", model=str(out))
    written = writer(text, max_new_tokens=6, do_sample=False, return_full_text=False)[0]["generated_text"]
    tokens = generate(after.decoder, after.params, [prompt], new_tokens=6, end_ids=(0, 7), batch=1)[0]
    assert written == theirs.decode(tokens, skip_special_tokens=True)
    with torch.no_grad():
        greedy = model.generate(torch.tensor(prompt[None].astype(np.int64)), max_new_tokens=6, do_sample=False)[
            0, len(prompt) :
        ]
    np.testing.assert_array_equal(tokens, greedy.numpy())

    # what came with the base model, and what says where the model comes from
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [0, 7], "max_new_tokens": 6}
    raw = json.loads((out / "config.json").read_text())
    assert (raw["eos_token_id"], raw["vocab_size"]) == ([0, 7], rows_after)
    assert (out / "LICENSE").read_text() == "Take it."
    card = (out / "README.md").read_text()
    assert 'license: "apache-2.0"' in card and "base model's files: `" in card and "base_model" not in card
    assert (out / "model.safetensors.index.json").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 4 * 2**30), ("500MB", 500_000_000), ("1.5 KiB", 1536), ("2TB", 2 * 10**12)]
)
def test_size_of_a_weights_file(text: str, size: int) -> None:
    assert ExportSpec(max_shard_size=text).shard_bytes == size


@pytest.mark.parametrize("text", ["", "5", "5G", "0GB", "-1GB", "many MB"])
def test_what_is_no_size(text: str) -> None:
    from cprec_jax.config.build import build

    with pytest.raises(UserError, match=r"config\.export: max_shard_size .*write a number and KB"):
        build(ExportSpec, {"max_shard_size": text}, "config.export")
