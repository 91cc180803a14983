"""A tiny road for tests: a synthetic corpus, its rows, and a config whose model trains in seconds."""

import copy
from pathlib import Path
from typing import Any

from tests import run_jobs as jobs

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "corpus": {
        "sources": [
            {"name": "Books", "role": "pretrain", "adapter": "synthetic", "platform": "synthetic"},
            {"name": "Games", "role": "pretrain", "adapter": "synthetic", "platform": "synthetic"},
            {"name": "Garden", "role": "downstream", "adapter": "synthetic", "platform": "synthetic"},
        ],
        "synthetic": {"users": 300, "items": 60, "interactions": 20.0, "tastes": 8},
        "k_core": 0,
        "candidates": {"protocols": ["u20"]},
    },
    "text": {"tokenizer": "train", "vocab_size": 400, "template": {"header": "{scope}:\n"}},
    "pack": {"row_length": 64},
    "model": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "dropout": 0.1,
    },
    "train": {
        "global_batch": 8,
        "steps": 12,
        "log_every": 1,
        "checkpoint_every": 5,
        "loss_chunk": 16,
        "milestones": [0.5],
    },
    "evaluate": {
        "names": {
            "random": {"kind": "random"},
            "popularity": {"kind": "popularity"},
            "untrained": {"kind": "untrained"},
            "cpt": {"kind": "checkpoint"},
            "oracle": {"kind": "oracle"},
        },
        "protocols": ["full", "u20"],
        "max_users": 40,
        "validation_users": 20,
        "prompt_tokens": 60,
        "bootstrap": 50,
    },
    "export": {},
    "report": {},
}


def config(**sections: dict[str, Any]) -> dict[str, Any]:
    """A copy of `CONFIG` with keys of some sections replaced."""
    made = copy.deepcopy(CONFIG)
    for name, changes in sections.items():
        made[name].update(changes)
    return made


def make_rows(workdir: Path) -> Path:
    """Corpus and rows of `CONFIG` in `workdir`."""
    jobs.prepare(CONFIG, workdir)
    jobs.pack(CONFIG, workdir)
    return workdir
