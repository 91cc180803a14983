"""The yardstick of benchmarks/prepare.py: the straightforward pandas script that makes the same corpus.

    python benchmarks/prepare_pandas.py FOLDER OUT        (FOLDER as `benchmarks/interactions.py` writes it)

Read, clean and merge titles, join, drop duplicates, sort, drop consecutive repeats, split by two global times, k-core
in a loop of groupby, sequences by groupby; counts after every step. The same items, sequences, targets, histories and
counts as `launch.py prepare` makes with `benchmarks.prepare.corpus_section`: ties broken by the same seeded hash, the
same test users; `benchmarks/prepare.py` compares them value by value. Written as one does who knows pandas: whole
columns at a time, a hash only where there is a tie, columns that are not needed any more left behind, and nothing else
to save time or memory. It does not stream, checks no file and hashes none, and draws no candidates.
"""

import hashlib
import html
import json
import sys
import unicodedata
from pathlib import Path

import pandas as pd

ROLES = {"Books": "pretrain", "Kitchen": "pretrain", "Music": "pretrain", "Games": "downstream"}
NAMES = list(ROLES)
PLATFORM, SEED, K_CORE = "made-up", 0, 5
MAX_USERS = {"valid": 2_000, "test": 10_000}
USER = ["domain", "user"]


def clean(title: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", html.unescape(title)).split())


def hash60(text: str) -> int:
    return int(hashlib.md5(text.encode()).hexdigest()[:15], 16)


def count(frame: pd.DataFrame, user: str = "user", item: str = "item") -> list[dict[str, int]]:
    """Interactions, users and items of every domain."""
    by_domain = frame.groupby("domain")
    counts = pd.DataFrame(
        {"interactions": by_domain.size(), "users": by_domain[user].nunique(), "items": by_domain[item].nunique()}
    )
    return counts.reindex(range(len(NAMES)), fill_value=0).to_dict("records")


def read(folder: Path, kind: str) -> pd.DataFrame:
    return pd.concat(
        [pd.read_csv(folder / f"{name}{kind}.csv").assign(domain=domain) for domain, name in enumerate(NAMES)]
    )


def read_items(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The catalogue, in the order of item numbers; and the number of every item id, those with the same title being
    one."""
    items = read(folder, "_items").dropna()
    items["title"] = items["title"].map(clean)
    items = items[items["title"] != ""].groupby(["domain", "item_id"], as_index=False)["title"].min()
    items["kept_id"] = items.groupby(["domain", "title"])["item_id"].transform("min")
    catalogue = items[items["item_id"] == items["kept_id"]].sort_values(["domain", "item_id"], ignore_index=True)
    catalogue["item"] = catalogue.index
    numbers = items.merge(catalogue[["domain", "kept_id", "item"]], on=["domain", "kept_id"])
    return catalogue, numbers[["domain", "item_id", "kept_id", "item"]]


def read_interactions(folder: Path, numbers: pd.DataFrame, counts: dict[str, list[dict[str, int]]]) -> pd.DataFrame:
    """domain, user, item, time, tie: every user's interactions in order."""
    data = read(folder, "").rename(columns={"timestamp": "time"})
    counts["read"] = count(data, "user_id", "item_id")
    data = data.merge(numbers, on=["domain", "item_id"])
    data["user"] = data["user_id"].map({user: hash60(f"{PLATFORM}\x1f{user}") for user in data["user_id"].unique()})
    counts["with a known title"] = count(data)
    data = data.drop_duplicates(["domain", "user", "item", "time"])
    counts["without exact duplicates"] = count(data)
    tied = data.duplicated(["user", "time"], keep=False)
    data["tie"] = 0
    data.loc[tied, "tie"] = [
        hash60(f"{SEED}:{PLATFORM}\x1f{user}\x1f{NAMES[domain]}\x1f{item}")
        for user, domain, item in data.loc[tied, ["user_id", "domain", "kept_id"]].itertuples(index=False)
    ]
    data = data[["domain", "user", "item", "time", "tie"]].sort_values(
        ["domain", "user", "time", "tie"], ignore_index=True
    )
    data = data[data["item"] != data.groupby(USER)["item"].shift()]
    counts["without consecutive repeats"] = count(data)
    return data


def k_core(train: pd.DataFrame) -> pd.DataFrame:
    while True:
        before = len(train)
        train = train[train.groupby(USER)["item"].transform("size") >= K_CORE]
        train = train[train.groupby("item")["user"].transform("size") >= K_CORE]
        if len(train) == before:
            return train


def lists(frame: pd.DataFrame, by: list[str], path: Path, columns: tuple[str, ...] = ("item", "time")) -> None:
    """One row a group, its items and times as lists, in the frame's order."""
    frame.groupby(by)[list(columns)].agg(list).reset_index().to_parquet(path)


def main(folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, list[dict[str, int]]] = {}
    catalogue, numbers = read_items(folder)
    data = read_interactions(folder, numbers, counts)
    downstream = [domain for domain, role in enumerate(ROLES.values()) if role == "downstream"]
    times = data.loc[data["domain"].isin(downstream), "time"].sort_values(ignore_index=True)
    t1, t2 = int(times[int(0.8 * len(times))]), int(times[int(0.9 * len(times))])

    train = data[data["time"] < t1]
    counts["training period"] = count(train)
    train_count = train.groupby("item").size()
    catalogue["train_count"] = catalogue["item"].map(train_count).fillna(0).astype(int)
    catalogue[["item", "item_id", "domain", "title", "train_count"]].to_parquet(out / "items.parquet")
    train = k_core(train)
    counts["after k-core"] = count(train)
    for domain, name in enumerate(NAMES):
        lists(train[train["domain"] == domain], USER, out / f"{name}.parquet")
    pretrain = train[~train["domain"].isin(downstream)]
    several = pretrain.groupby("user")["domain"].transform("nunique") >= 2
    lists(
        pretrain[several].sort_values(["user", "time", "tie", "item"]),
        ["user"],
        out / "mixed.parquet",
        ("item", "domain", "time"),
    )

    data["place"] = data.groupby(USER).cumcount()
    data["untied"] = ~data.duplicated([*USER, "time"], keep=False)
    for split, low, high in (("valid", t1, t2), ("test", t2, float("inf"))):
        targets = data[(data["time"] >= low) & (data["time"] < high)].drop_duplicates(USER)
        targets = targets[targets["place"] > 0]
        targets["draw"] = [
            hash60(f"{SEED}:{NAMES[domain]}:{user}") for domain, user in targets[USER].itertuples(index=False)
        ]
        targets = targets.sort_values(["draw", "user"]).groupby("domain").head(MAX_USERS[split])
        targets["seen"] = targets["user"].isin(pretrain["user"])
        targets = targets.rename(columns={"item": "target", "time": "target_time", "place": "end"})
        record = [*USER, "target", "target_time", "untied", "seen"]
        histories = data[[*USER, "item", "time", "place"]].merge(targets[[*record, "end"]], on=USER)
        lists(histories[histories["place"] < histories["end"]], record, out / f"{split}.parquet")
    (out / "counts.json").write_text(json.dumps({"times": {"t1": t1, "t2": t2}, "counts": counts}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
