"""Fine-tuning in full and by an adapter (LoRA) beside each other, both from one model that was pre-trained on another
set.

    python launch.py run --config=configs/sft_lora.py:scientific18 --workdir=runs/sft-lora-scientific18

SET as in configs/sft.py, but electronics14_1m, on which `cpt` pre-trains. `full` and `lora` start from it and have the
same rows, epochs, loss, seeds and learning rates to choose from by validation users. Rows: `zero-shot` is `cpt` as it
is. With a base model instead of a new one: --config.model.init_from=DIR. Figures: docs/results/sft.md.
"""

import sft
from ml_collections import ConfigDict

PRETRAINED_ON = "electronics14_1m"
TOKENS = 3_000_000  # of pre-training
ADAPTER = {"rank": 16, "alpha": 32.0}
PEAKS = {"full": (1e-3, 3e-3), "lora": (1e-3, 3e-3)}


def get_config(argument: str = "scientific18") -> ConfigDict:
    if argument.partition(",")[0] == PRETRAINED_ON:
        raise ValueError(f"argument {argument!r}: {PRETRAINED_ON} is what is pre-trained on; choose another set")
    config = sft.get_config(argument)
    config.name = f"sft-lora-{argument.replace(',', '-')}"
    (downstream,) = config.corpus.sources
    files = {
        "interactions": f"{PRETRAINED_ON}/inter.tsv.gz",
        "items": f"{PRETRAINED_ON}/item.tsv.gz",
        "split": "leave_one_out",
    }
    config.corpus.sources = [{"name": PRETRAINED_ON, "role": "pretrain", **files}, downstream]
    epochs = config.train.epochs
    del config.train.epochs
    runs = {"cpt": {"train": {"tokens": TOKENS, "schedule": {"warmup": 0.02, "anneal": 0.2}}, "seeds": 1}}
    for name, peaks in PEAKS.items():
        runs[name] = {
            "stage": "sft",
            "start": "cpt",
            "seeds": 3,
            "sft": {"objective": "catalogue"},
            "train": {"epochs": epochs},
            "grid": {"train": {"schedule": {"peak": peaks}}},
            "select_from": (0.5, 0.75, 1.0),
        }
    runs["lora"]["lora"] = ADAPTER
    config.runs = runs
    rows = {"zero-shot": {"run": "cpt"}, "full": {"run": "full"}, "lora": {"run": "lora"}}
    config.evaluate.names = {"popularity": {"kind": "popularity"}, "sasrec": {"kind": "sasrec"}, **rows}
    config.evaluate.sets = (argument.partition(",")[0],)
    config.report = {
        "title": f"Fine-tuning in full and by LoRA on {argument}",
        "order": ("popularity", "sasrec", *rows),
    }
    return config
