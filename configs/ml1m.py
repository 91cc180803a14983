"""MovieLens-1M, leave-one-out on the given times: the dense set where quality must show on two CPU cores.

python launch.py run --config=configs/ml1m.py --workdir=runs/ml1m
"""

from ml_collections import ConfigDict
from model_shapes import SMALL

REFERENCE = {
    "source": "README of the data, own run there; SASRec++ and HSTU as published (SPRINT, KDD 2026)",
    "protocol": "leave-one-out, full ranking, history masked",
    "Movies": {
        "popularity (last 10 items)": {"hr@10": 0.0364, "ndcg@10": 0.0179},
        "Markov (last 10 items)": {"hr@10": 0.2151, "ndcg@10": 0.1261},
        "item-kNN (last 10 items)": {"hr@10": 0.1672, "ndcg@10": 0.0925},
        "SASRec++": {"hr@10": 0.1938, "ndcg@10": 0.1015},
        "HSTU": {"hr@10": 0.2036, "ndcg@10": 0.1037},
    },
}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "ml1m"
    config.corpus = {
        "root": "../shared/data",
        "sources": [
            {
                "name": "Movies",
                "role": "pretrain",
                "platform": "movielens",
                "interactions": "ml1m/inter.tsv.gz",
                "items": "ml1m/item.tsv.gz",
                "split": "leave_one_out",
            }
        ],
        "k_core": 0,
        # 40 films share a title with another film; apart, nobody rates an item twice, as in the published protocol.
        "titles": {"policy": "distinguish"},
    }
    # Merges may span words and the end of a line: a title that is read often is one token, so a row of 256 tokens holds
    # some 220 films.
    config.text = {"tokenizer": "train", "vocab_size": 12288, "template": {"header": "{scope} one user watched:\n"}}
    config.pack = {"row_length": 256}
    config.model = {**SMALL, "max_position_embeddings": 512, "dropout": 0.1}
    config.train = {
        "global_batch": 8,
        "epochs": 7.0,
        "schedule": {"peak": 4e-3, "warmup": 0.03, "anneal": 0.3, "shape": "linear"},
        "loss_chunk": 32,
        "log_every": 20,
        "checkpoint_every": 500,
        "milestones": (0.25, 0.5, 0.75),
    }
    config.evaluate = {
        "names": {
            "random": {"kind": "random"},
            "popularity": {"kind": "popularity"},
            "untrained": {"kind": "untrained"},
            "cpt-25": {"kind": "checkpoint", "fraction": 0.25},
            "cpt-50": {"kind": "checkpoint", "fraction": 0.5},
            "cpt-75": {"kind": "checkpoint", "fraction": 0.75},
            "cpt": {"kind": "checkpoint"},
        },
        "protocols": ["full", "u20", "u100", "p20"],
        "prompt_tokens": 248,
    }
    config.export = {"dtype": "float32"}
    config.report = {
        "title": "MovieLens-1M, leave-one-out",
        "order": ("random", "popularity", "untrained", "cpt-25", "cpt-50", "cpt-75", "cpt"),
        "reference": REFERENCE,
    }
    return config
