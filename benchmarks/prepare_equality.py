"""Whether `launch.py prepare` and `benchmarks/prepare_pandas.py` made the same corpus of the same files, value by
value."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.interactions import ROLES

TARGET = {"target": "target", "target_time": "target_time", "untied": "untied", "seen": "seen"}
LISTS = {"items": "item", "times": "time"}


def differences(corpus: Path, theirs: Path) -> list[str]:
    """What differs, one line each: items and their titles, training sequences, targets with their histories, split
    times, counts."""
    found = list(
        _different(
            pq.read_table(corpus / "items.parquet"), pq.read_table(theirs / "items.parquet"), "items", _same_names()
        )
    )
    for name, role in ROLES.items():
        mine = pq.read_table(corpus / "sequences" / ("domain" if role == "pretrain" else "sft") / f"{name}.parquet")
        found += _different(mine, pq.read_table(theirs / f"{name}.parquet"), name, {"user": "user", **LISTS})
    mine = pq.read_table(corpus / "sequences" / "mixed" / "all.parquet")
    found += _different(
        mine, pq.read_table(theirs / "mixed.parquet"), "mixed", {"user": "user", "item_domains": "domain", **LISTS}
    )
    for split in ("valid", "test"):
        every = pq.read_table(theirs / f"{split}.parquet")
        for domain, name in enumerate(ROLES):
            mine = pq.read_table(corpus / "sequences" / split / f"{name}.parquet")
            own = every.filter(pc.equal(every["domain"], domain))
            found += _different(mine, own, f"{name} {split}", {"user": "user", **TARGET, **LISTS})
    manifest = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    return found + list(_different_counts(manifest, json.loads((theirs / "counts.json").read_text(encoding="utf-8"))))


def _same_names() -> dict[str, str]:
    return {name: name for name in ("item", "item_id", "domain", "title", "train_count")}


def _different(mine: pa.Table, theirs: pa.Table, what: str, columns: Mapping[str, str]) -> Iterator[str]:
    """`columns`: the corpus's name -> pandas's. Integers may differ in width."""
    if len(mine) != len(theirs):
        yield f"{what}: {len(mine)} rows, pandas has {len(theirs)}"
    if len(mine) != len(theirs) or not len(mine):  # pandas gives a column of no lists another type
        return
    for own, other in columns.items():
        a, b = (table[name].combine_chunks() for table, name in ((mine, own), (theirs, other)))
        if pa.types.is_list(a.type) and not np.array_equal(pc.list_value_length(a), pc.list_value_length(b)):
            yield f"{what}: lists in {own} differ in length"
            continue
        if pa.types.is_list(a.type):
            a, b = a.flatten(), b.flatten()
        if not a.equals(b.cast(a.type)):
            yield f"{what}: {own} differs"


def _different_counts(manifest: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    times = list(manifest["times"].values())
    if times != [theirs["times"]]:
        yield f"split times: {times}, pandas {theirs['times']}"
    for domain, (name, steps) in enumerate(manifest["counts"].items()):
        for step, counts in steps.items():
            if counts != theirs["counts"][step][domain]:
                yield f"{name} {step}: {counts}, pandas {theirs['counts'][step][domain]}"
