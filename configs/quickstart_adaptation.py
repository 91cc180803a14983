"""Quickstart of adaptation: does pre-training on three domains help where a fourth has few users, and which loss is
better?

    python launch.py run --config=configs/quickstart_adaptation.py --workdir=runs/quickstart_adaptation

The quickstart's world, model and pre-training. Of the unseen domain, Garden, one user in twenty may be trained on. Rows
of the table: the pre-trained model as it is (`cpt`), fine-tuning from scratch (`sft-only`) and after pre-training
(`cpt-sft`), each by the language-model loss and by the catalogue likelihood (`-catalogue`), three seeds each, and the
best possible ranking (`oracle`).
"""

import quickstart
from ml_collections import ConfigDict

USERS = 0.05  # share of Garden's users that may be trained on
LOSSES = {"": "language-model", "-catalogue": "catalogue"}


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.name = "quickstart-adaptation"
    train = {
        "epochs": 6.0,
        "global_batch": 4,
        "schedule": {"peak": 2e-3, "warmup": 0.1, "anneal": 0.5, "shape": "linear"},
        "checkpoint_every": 1000,
    }
    runs = {"cpt": {}}
    names = {"cpt": {"run": "cpt"}, "oracle": {"kind": "oracle"}, "popularity": {"kind": "popularity"}}
    for row, start in (("sft-only", "base"), ("cpt-sft", "cpt")):
        for ending, objective in LOSSES.items():
            runs[row + ending] = {
                "stage": "sft",
                "start": start,
                "seeds": 3,
                "train": train,
                "sft": {"objective": objective, "users": USERS},
                "select_from": (0.33, 0.67, 1.0),
            }
            names[row + ending] = {"run": row + ending}
    config.runs = runs
    config.train.seeds = 1
    config.evaluate.names = names
    config.evaluate.sets = (quickstart.UNSEEN,)
    config.evaluate.protocols = ("full",)
    config.export = {"runs": ("cpt-sft-catalogue",)}
    order = ("popularity", "cpt", "sft-only", "sft-only-catalogue", "cpt-sft", "cpt-sft-catalogue", "oracle")
    config.report = {"title": "Quickstart of adaptation: one user in twenty of an unseen domain", "order": order}
    return config
