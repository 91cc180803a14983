"""A public checkpoint, fine-tuned on an unseen set by either loss, exported, and loaded by transformers."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from cprec_jax.model.decoder import logits
from cprec_jax.text import tokenizer
from cprec_jax.train.restore import restore_decoder
from tests import road
from tests import run_jobs as jobs

pytestmark = pytest.mark.torch
BASE = "hf-stories260k"


@pytest.fixture(scope="module")
def tuned(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("tuned")
    sft: dict[str, Any] = {"stage": "sft", "select": "last", "train": {"steps": 6, "schedule": {"peak": 1e-3}}}
    config = road.config(text={"tokenizer": str(shared_models / BASE)}, pack={"row_length": 128}) | {
        "model": {"init_from": str(shared_models / BASE)},
        "runs": {loss: {**sft, "sft": {"objective": loss}} for loss in ("language-model", "catalogue")},
        "export": {"runs": ("language-model", "catalogue")},
    }
    config["evaluate"] |= {"names": {"random": {"kind": "random"}}}
    jobs.run(config, workdir, ["export/catalogue@Garden", "export/language-model@Garden"])
    return workdir


@pytest.mark.parametrize("loss", ["language-model", "catalogue"])
def test_transformers_loads_what_was_fine_tuned(tuned: Path, loss: str) -> None:
    torch = pytest.importorskip("torch")
    import transformers

    assert [path.name for path in (tuned / "rows").iterdir()] == ["sft"], "nothing to pre-train on"
    out, ours = tuned / f"export/{loss}@Garden", restore_decoder(tuned / f"runs/{loss}@Garden")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokens = tokenizer.load(out).encode("Garden:\namber lantern\nquiet river\n")[None]
    assert tokens.tolist()[0] == transformers.AutoTokenizer.from_pretrained(out).encode(
        "Garden:\namber lantern\nquiet river\n", add_special_tokens=False
    )
    positions = jnp.arange(tokens.shape[1])[None]
    x_BTD: Any = ours.decoder.apply({"params": ours.params}, jnp.asarray(tokens), positions, (jnp.ones_like(tokens),))
    with torch.no_grad():
        theirs = model(torch.tensor(tokens.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(logits(ours.params, ours.decoder.config, x_BTD), theirs, atol=1e-4)


def test_both_losses_moved_the_base_model_and_apart(tuned: Path) -> None:
    runs = [restore_decoder(tuned / f"runs/{loss}@Garden").params["embed"] for loss in ("language-model", "catalogue")]
    start = restore_decoder(tuned / "runs/catalogue@Garden", step=0).params["embed"]
    assert (
        np.abs(runs[0] - start).max() > 1e-4
        and np.abs(runs[1] - start).max() > 1e-4
        and np.abs(runs[0] - runs[1]).max() > 1e-4
    )
