"""All baselines on the seven domains and the five downstream sets, by one of three protocols.

    python launch.py evaluate --config=configs/baselines.py:time --workdir=runs/baselines-time
    python launch.py evaluate --config=configs/baselines.py:published --workdir=runs/baselines-published
    python launch.py evaluate --config=configs/baselines.py:published,Beauty --workdir=runs/beauty --only=sasrec

(`prepare` first, with the same arguments; `compare` and `report` after.) Words after the first name the sets to take.

time        the project's protocol: one global pair of times per platform, ties by a seeded hash;
            leave-one-out for sets that have only an order
loo         leave-one-out, ties by a seeded hash
published   leave-one-out as papers do it: ties in the order of the files (which leaks on the Amazon sets of 2014),
            histories masked, counting baselines counted on everything before the targets

Figures: docs/results/baselines.md.
"""

from ml_collections import ConfigDict

DOMAINS = ("Beauty", "Toys", "Clothing", "Games", "Food", "Kitchen", "Movies")
DOWNSTREAM = {  # platform; the Amazon sets of 1M have renumbered users, who must not be taken for the domains' users
    "books14_1m": "amazon-books",
    "electronics14_1m": "amazon-electronics",
    "scientific18": "amazon-scientific",
    "ml1m": "movielens",
    "yelp_p5": "yelp",
}
COUNTING = ("popularity", "popularity_decayed", "last_items", "markov", "item_knn")
PUBLISHED = {  # SASRec++ (SPRINT, KDD 2026): hr@10, ndcg@10
    "Beauty": (0.0615, 0.0315),
    "Toys": (0.0780, 0.0392),
    "ml1m": (0.1938, 0.1015),
    "electronics14_1m": (0.0277, 0.0148),
    "books14_1m": (0.0664, 0.0301),
}


def get_config(argument: str = "time") -> ConfigDict:
    protocol, *wanted = argument.split(",")
    if protocol not in ("time", "loo", "published"):
        raise ValueError(f"protocol {protocol!r}: choose time, loo or published")
    names = wanted or [*DOMAINS, *DOWNSTREAM]
    for name in names:
        if name not in (*DOMAINS, *DOWNSTREAM):
            raise ValueError(f"set {name!r}: choose from {', '.join((*DOMAINS, *DOWNSTREAM))}")
    config = ConfigDict()
    config.name = f"baselines-{protocol}"
    config.corpus = corpus(protocol, names)
    fit = "history" if protocol == "published" else "train"
    config.evaluate = {
        "names": {
            "random": {"kind": "random"},
            **{name: {"kind": name, "fit": fit} for name in COUNTING},
            "text_knn": {"kind": "text_knn"},
            "graph": {"kind": "graph", "fit": fit},
            "gru4rec": {"kind": "gru4rec"},
            "sasrec": {"kind": "sasrec"},
            "gru4rec-titles": {"kind": "gru4rec", "init": "titles"},
            "sasrec-titles": {"kind": "sasrec", "init": "titles"},
            "text-counts": {"kind": "ensemble", "members": ["text_knn", "item_knn", "popularity_decayed"]},
            "text-sasrec": {"kind": "ensemble", "members": ["text_knn", "sasrec", "popularity_decayed"]},
        },
        "protocols": ["full", "u20", "u100"],
        "mask_history": "always" if protocol == "published" else "auto",
        "max_users": None if protocol == "published" else 5000,
    }
    reference = {"source": "as published (SPRINT, KDD 2026)", "protocol": "leave-one-out, full ranking"}
    for name in names:
        if name in PUBLISHED and protocol == "published":
            reference[name] = {"SASRec++": dict(zip(("hr@10", "ndcg@10"), PUBLISHED[name], strict=True))}
    config.report = {"title": f"Baselines, {protocol}", "reference": reference if len(reference) > 2 else {}}
    return config


def corpus(protocol: str, names: list[str]) -> dict:
    """The sets `names`, split as the protocol has it."""
    platforms = {name: DOWNSTREAM.get(name, "amazon") for name in names}
    # MovieLens is split at the quantiles of its own times; scientific18 and Yelp have only an order.
    timed = {"amazon", "amazon-books", "amazon-electronics"} & set(platforms.values()) if protocol == "time" else set()
    split = {"t1": "2014-01-05", "t2": "2014-04-04"}
    folders = {name: name if name in DOWNSTREAM else f"amazon7/{name}" for name in names}
    return {
        "root": "../shared/data",
        "sources": [
            {
                "name": name,
                "role": "downstream" if name in DOWNSTREAM else "pretrain",
                "platform": platforms[name],
                "interactions": f"{folders[name]}/inter.tsv.gz",
                "items": f"{folders[name]}/item.tsv.gz",
            }
            for name in names
        ],
        "split": "auto" if protocol == "time" else "leave_one_out",
        "times": dict.fromkeys(sorted(timed), split),
        "ties": "file" if protocol == "published" else "hash",
        "k_core": 0,
        "titles": {"policy": "distinguish"},
        "candidates": {"protocols": ["u20", "u100"]},
    }
