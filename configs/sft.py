"""Fine-tuning on one of the five downstream sets, from scratch, by both losses: leave-one-out beside the baselines.

    python launch.py run --config=configs/sft.py:scientific18 --workdir=runs/sft-scientific18
    python launch.py run --config=configs/sft.py:scientific18,60 --workdir=runs/sft-60
    python launch.py run --config=configs/sft.py:ml1m --workdir=runs/sft-ml1m

SET: scientific18, ml1m, yelp_p5, electronics14_1m, books14_1m; `SET,60` cuts titles to 60 characters. The corpus has
this set alone and nothing to pre-train on, so the tokenizer is trained on its training titles; another one is given
with --config.text.tokenizer=DIR, a base model with --config.model.init_from=DIR.
Figures: docs/results/sft.md.
"""

from ml_collections import ConfigDict
from model_shapes import SMALL

SETS = ("scientific18", "ml1m", "yelp_p5", "electronics14_1m", "books14_1m")
EPOCHS = {"scientific18": 5.0, "ml1m": 7.0, "yelp_p5": 8.0, "electronics14_1m": 8.0, "books14_1m": 5.0}
GRID = {"train": {"schedule": {"peak": (1e-3, 3e-3)}}, "model": {"dropout": (0.1, 0.3)}}
RUNS = {"language-model": "language-model", "catalogue": "catalogue"}  # row -> loss


def get_config(argument: str = "scientific18") -> ConfigDict:
    name, _, cut = argument.partition(",")
    if name not in SETS or (cut and not cut.isdigit()):
        raise ValueError(f"argument {argument!r}: choose SET or SET,CHARACTERS with a set of {', '.join(SETS)}")
    config = ConfigDict()
    config.name = f"sft-{argument.replace(',', '-')}"
    source = {
        "name": name,
        "role": "downstream",
        "interactions": f"{name}/inter.tsv.gz",
        "items": f"{name}/item.tsv.gz",
    }
    config.corpus = {
        "root": "../shared/data",
        "sources": [{**source, "split": "leave_one_out"}],
        "k_core": 0,
        "titles": {"policy": "distinguish", "max_length": int(cut or 300)},
        "candidates": {"protocols": ["u100"]},
    }
    config.text = {"vocab_size": 8192, "template": {"header": "{scope} one user chose:\n"}}
    config.pack = {"row_length": 256}
    config.model = {**SMALL, "max_position_embeddings": 512, "dropout": 0.2}
    config.train = {
        "epochs": EPOCHS[name],
        "global_batch": 8,
        "schedule": {"peak": 3e-3, "warmup": 0.05, "anneal": 0.4, "shape": "linear"},
        "loss_chunk": 64,
        "log_every": 20,
        "checkpoint_every": 1000,
    }
    sft = {"stage": "sft", "seeds": 3, "grid": GRID, "select_from": (0.5, 0.75, 1.0)}
    config.runs = {row: {**sft, "sft": {"objective": loss}} for row, loss in RUNS.items()}
    baselines = ("popularity", "markov", "item_knn", "text_knn", "sasrec")
    config.evaluate = {
        "names": {
            **{kind: {"kind": kind} for kind in baselines},
            **{row: {"run": row} for row in RUNS},
            "catalogue-text_knn": {"kind": "ensemble", "members": ("catalogue", "text_knn")},
        },
        "protocols": ("full",),
        "prompt_tokens": 240,
        "validation_users": 300,
    }
    config.report = {"title": f"Fine-tuning on {argument}", "order": (*baselines, *RUNS, "catalogue-text_knn")}
    return config
