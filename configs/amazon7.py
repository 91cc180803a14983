"""Seven Amazon domains (continual pre-training on their own and on the mixed sequences), two unseen downstream sets
ranked zero-shot.

    python launch.py run --config=configs/amazon7.py:small --workdir=runs/amazon7
    python launch.py run --config=configs/amazon7.py:stories --workdir=runs/amazon7-stories

`small` trains a byte-level BPE of 8k and a model of 1.7M parameters from scratch; `stories` goes on from the public
stories260k checkpoint and its tokenizer of 512 tokens. This is the machinery on real data, not a good recommender yet:
see docs/results/amazon7.md.
"""

from ml_collections import ConfigDict
from model_shapes import SMALL

DOMAINS = ("Beauty", "Toys", "Clothing", "Games", "Food", "Kitchen", "Movies")
FLOORS = {  # leave-one-out, history masked, last 10 items: hr@10, ndcg@10
    "Beauty": {"popularity": (0.0122, 0.0053), "Markov": (0.0768, 0.0501), "item-kNN": (0.0727, 0.0431)},
    "Toys": {"popularity": (0.0104, 0.0060), "Markov": (0.0825, 0.0563), "item-kNN": (0.0901, 0.0557)},
    "Clothing": {"popularity": (0.0051, 0.0026), "Markov": (0.0301, 0.0184), "item-kNN": (0.0302, 0.0179)},
    "Games": {"popularity": (0.0097, 0.0050), "Markov": (0.0857, 0.0550), "item-kNN": (0.0884, 0.0541)},
    "scientific18": {"popularity": (0.0519, 0.0240), "Markov": (0.1219, 0.0848), "item-kNN": (0.1653, 0.1128)},
}
TIME_FLOORS = {  # the global time split, history not masked: hr@10
    "Beauty": {"popularity, time split": 0.0080, "Markov, time split": 0.0130, "item-kNN, time split": 0.0149},
    "Toys": {"popularity, time split": 0.0061, "Markov, time split": 0.0138, "item-kNN, time split": 0.0189},
    "Clothing": {"popularity, time split": 0.0074, "Markov, time split": 0.0097, "item-kNN, time split": 0.0051},
    "Games": {"popularity, time split": 0.0038, "Markov, time split": 0.0089, "item-kNN, time split": 0.0116},
    "Food": {"popularity, time split": 0.0241, "Markov, time split": 0.0238, "item-kNN, time split": 0.0162},
    "electronics14_1m": {
        "popularity, time split": 0.0244,
        "Markov, time split": 0.0171,
        "item-kNN, time split": 0.0058,
    },
}


# What the two sizes do not share. One epoch is short: from scratch the stable phase stood still after a third of it,
# annealing brought the rest. A title is 45 tokens of `stories`, so that a user costs several times as much.
SIZES = {
    "small": {"row_length": 256, "epochs": 1.0, "peak": 3e-3, "anneal": 0.6, "prompt_tokens": 192, "max_users": 1000},
    "stories": {"row_length": 512, "epochs": 0.1, "peak": 2e-3, "anneal": 0.3, "prompt_tokens": 352, "max_users": 20},
}
STORIES = "../shared/models/hf-stories260k"
FRACTIONS = (33, 67)  # percent of the run at which `small` is ranked, too


def get_config(size: str = "small") -> ConfigDict:
    if size not in SIZES:
        raise ValueError(f"size {size!r}: choose {' or '.join(SIZES)}")
    chosen = SIZES[size]
    config = ConfigDict()
    config.name = f"amazon7-{size}"
    config.corpus = corpus()
    template = {"header": "{scope} one user bought:\n"}
    if size == "small":
        config.text = {"tokenizer": "train", "vocab_size": 8192, "template": template}
        config.model = {**SMALL, "max_position_embeddings": 512}
    else:
        config.text = {"tokenizer": STORIES, "template": template}
        config.model = {"init_from": STORIES, "unroll": True}
    config.pack = {"row_length": chosen["row_length"]}
    config.train = {
        "global_batch": 8,
        "epochs": chosen["epochs"],
        "schedule": {"peak": chosen["peak"], "warmup": 0.03, "anneal": chosen["anneal"], "shape": "linear"},
        # By size alone the smallest domain, Movies, would be 2 % of the rows; so it is 4.5 %.
        "mixture": {"temperature": 0.6},
        "loss_chunk": 32,
        "log_every": 50,
        "checkpoint_every": 500,
        "milestones": (0.33, 0.67),
    }
    between = {
        f"cpt-{percent}": {"kind": "checkpoint", "fraction": percent / 100} for percent in FRACTIONS if size == "small"
    }
    config.evaluate = {
        "names": {
            "random": {"kind": "random"},
            "popularity": {"kind": "popularity"},
            "untrained": {"kind": "untrained"},
            **between,
            "cpt": {"kind": "checkpoint"},
        },
        "protocols": ["full", "u20"],
        "ranks_to": 100,  # exact up to rank 100, which HR@100 needs; several times cheaper than every rank
        "max_users": chosen["max_users"],
        "validation_users": 50,
        "temperatures": (0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0),
        "prompt_tokens": chosen["prompt_tokens"],
    }
    config.export = {"dtype": "float32"}
    config.report = {
        "title": f"Amazon, seven domains ({size})",
        "order": ("random", "popularity", "untrained", *between, "cpt"),
        "reference": reference(),
    }
    return config


def corpus() -> dict:
    """Seven domains to pre-train on, two sets to rank zero-shot."""
    # The users of electronics14_1m are renumbered: on the shared platform they would be taken for other people.
    downstream = {"scientific18": "amazon", "electronics14_1m": "amazon-renumbered"}
    sources = [(name, "pretrain", "amazon", f"amazon7/{name}") for name in DOMAINS]
    sources += [(name, "downstream", platform, name) for name, platform in downstream.items()]
    split = {"t1": "2014-01-05", "t2": "2014-04-04"}
    return {
        "root": "../shared/data",
        "sources": [
            {
                "name": name,
                "role": role,
                "platform": platform,
                "interactions": f"{folder}/inter.tsv.gz",
                "items": f"{folder}/item.tsv.gz",
            }
            for name, role, platform, folder in sources
        ],
        "times": dict.fromkeys(downstream.values(), split),
        "k_core": 0,  # a 5-core of the training period would leave nothing of Kitchen and Movies
        "candidates": {"protocols": ["u20", "u100"]},
    }


def reference() -> dict:
    """The published floors of each set, for the report."""
    rows = {
        "source": "published floors of the data's README, own run there",
        "protocol": "leave-one-out, history masked",
    }
    for name, floors in FLOORS.items():
        rows[name] = {row: {"hr@10": hr, "ndcg@10": ndcg} for row, (hr, ndcg) in floors.items()}
    for name, floors in TIME_FLOORS.items():
        protocol = "global time split, history not masked, up to 5,000 users"
        rows.setdefault(name, {}).update({row: {"hr@10": hr, "protocol": protocol} for row, hr in floors.items()})
    return rows
