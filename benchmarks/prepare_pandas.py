"""The yardstick of benchmarks/prepare.py: the straightforward pandas script, making the same training sequences and test histories.

    python benchmarks/prepare_pandas.py FOLDER OUT        (FOLDER as `benchmarks/interactions.py` writes it)

Read, clean and merge titles, join, drop duplicates, sort, drop consecutive repeats, split by two global times, k-core in a loop of groupby,
sequences by groupby. It does less than `prepare`: no hashes of files, no counts a step, no candidates, ties in file order. Frames
that are not needed any more are dropped, as a careful author would.
"""

import html
import json
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

ROLES = {"Books": "pretrain", "Kitchen": "pretrain", "Music": "pretrain", "Games": "downstream"}
K_CORE = 5
MAX_USERS = {"valid": 2_000, "test": 10_000}


def clean(title: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", html.unescape(title)).split())


def read(folder: Path, out: Path) -> tuple[pd.DataFrame, int]:
    """All interactions with numbers for users and items, and how many items there are; writes items.parquet."""
    frames, catalogues, n_items = [], [], 0
    for domain, name in enumerate(ROLES):
        items = pd.read_csv(folder / f"{name}_items.csv").dropna().drop_duplicates("item_id")
        items["title"] = items["title"].map(clean)
        items["kept"] = items.groupby("title")["item_id"].transform("min")
        kept, _ = pd.factorize(items["kept"], sort=True)
        items["item"] = kept + n_items
        n_items += int(kept.max()) + 1
        catalogues.append(items[items["item_id"] == items["kept"]].assign(domain=domain))
        frame = pd.read_csv(folder / f"{name}.csv").merge(items[["item_id", "item"]], on="item_id")
        frames.append(frame[["user_id", "item", "timestamp"]].assign(domain=np.int8(domain)))
    pd.concat(catalogues).sort_values("item").to_parquet(out / "items.parquet")
    data = pd.concat(frames, ignore_index=True)
    data["user"] = pd.factorize(data["user_id"])[0]
    return data[["domain", "user", "item", "timestamp"]].rename(columns={"timestamp": "time"}), n_items


def lists(frame: pd.DataFrame, by: list[str], path: Path) -> int:
    """One row a group, its items and times as lists, in the frame's order."""
    sequences = frame.groupby(by, sort=True)[["item", "time"]].agg(list)
    sequences.reset_index().to_parquet(path)
    return len(sequences)


def main(folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    data, n_items = read(folder, out)
    data = data.drop_duplicates().sort_values(["domain", "user", "time"])
    previous = data.groupby(["domain", "user"])["item"].shift()
    data = data[previous != data["item"]]
    downstream = [domain for domain, role in enumerate(ROLES.values()) if role == "downstream"]
    times = data.loc[data["domain"].isin(downstream), "time"].sort_values().to_numpy()
    t1, t2 = times[int(0.8 * len(times))], times[int(0.9 * len(times))]
    train = data[data["time"] < t1]
    while True:
        before = len(train)
        of_user = train.groupby(["domain", "user"])["item"].transform("size")
        of_item = train.groupby("item")["user"].transform("size")
        train = train[(of_user >= K_CORE) & (of_item >= K_CORE)]
        if len(train) == before:
            break
    sequences = 0
    for domain, name in enumerate(ROLES):
        sequences += lists(train[train["domain"] == domain], ["user"], out / f"{name}.parquet")
    pretrain = train[~train["domain"].isin(downstream)]
    several = pretrain.groupby("user")["domain"].transform("nunique") >= 2
    mixed = lists(pretrain[several].sort_values(["user", "time"], kind="stable"), ["user"], out / "mixed.parquet")

    data["place"] = data.groupby(["domain", "user"]).cumcount()
    rng = np.random.default_rng(0)
    for split, low, high in (("valid", t1, t2), ("test", t2, np.inf)):
        targets = data[(data["time"] >= low) & (data["time"] < high)].groupby(["domain", "user"]).head(1)
        targets = targets[targets["place"] > 0].sample(frac=1, random_state=rng).groupby("domain").head(MAX_USERS[split])
        targets = targets.rename(columns={"item": "target", "time": "target_time", "place": "end"})
        histories = data.merge(targets, on=["domain", "user"])
        histories = histories[histories["place"] < histories["end"]].sort_values(["domain", "user", "place"])
        lists(histories, ["domain", "user", "target", "target_time"], out / f"{split}.parquet")
    counts = {"items": n_items, "train": len(train), "sequences": sequences, "mixed": mixed}
    (out / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
