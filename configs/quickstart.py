"""Quickstart: a synthetic world with a known best possible ranking, the whole road in minutes on a laptop CPU.

    python launch.py run --config=configs/quickstart.py --workdir=runs/quickstart     (or: make quickstart)

Three domains are pre-trained on (their own sequences and the all-domain mixed ones); a fourth is never seen in training
and ranked zero-shot. Titles carry the tastes, so what is learned in three domains can be used in the fourth.
"""

from ml_collections import ConfigDict
from model_shapes import SMALL

DOMAINS = ("Books", "Games", "Kitchen")
UNSEEN = "Garden"


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "quickstart"
    config.corpus = {
        "sources": [
            {"name": name, "role": "pretrain", "adapter": "synthetic", "platform": "synthetic"} for name in DOMAINS
        ]
        + [{"name": UNSEEN, "role": "downstream", "adapter": "synthetic", "platform": "synthetic"}],
        "k_core": 0,
        "max_test_users": 800,
    }
    config.text = {"tokenizer": "train", "vocab_size": 768, "across_words": False}
    config.pack = {"row_length": 256}
    config.model = dict(SMALL)
    config.train = {
        "global_batch": 8,
        "epochs": 2.0,
        "schedule": {"peak": 4e-3, "warmup": 0.05, "anneal": 0.3},
        "loss_chunk": 64,
        "log_every": 10,
        "checkpoint_every": 200,
    }
    config.evaluate = {
        "names": {
            "random": {"kind": "random"},
            "popularity": {"kind": "popularity"},
            "untrained": {"kind": "untrained"},
            "cpt": {"kind": "checkpoint"},
            "oracle": {"kind": "oracle"},
        },
        "protocols": ["full", "u20", "u100"],
        "validation_users": 300,
        "prompt_tokens": 192,
    }
    config.export = {"dtype": "float32"}
    config.report = {
        "title": "Quickstart: synthetic world",
        "order": ("random", "popularity", "untrained", "cpt", "oracle"),
    }
    return config
