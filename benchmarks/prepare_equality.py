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


def differences(corpus: Path, by_pandas: Path) -> list[str]:
    """What differs, one line each: items and their titles, training sequences, targets with their histories, split
    times, counts."""
    lines = list(
        _different(
            pq.read_table(corpus / "items.parquet"), pq.read_table(by_pandas / "items.parquet"), "items", _same_names()
        )
    )
    for name, role in ROLES.items():
        mine = pq.read_table(corpus / "sequences" / ("domain" if role == "pretrain" else "sft") / f"{name}.parquet")
        lines += _different(mine, pq.read_table(by_pandas / f"{name}.parquet"), name, {"user": "user", **LISTS})
    mine = pq.read_table(corpus / "sequences" / "mixed" / "all.parquet")
    lines += _different(
        mine, pq.read_table(by_pandas / "mixed.parquet"), "mixed", {"user": "user", "item_domains": "domain", **LISTS}
    )
    for split in ("valid", "test"):
        every = pq.read_table(by_pandas / f"{split}.parquet")
        for domain, name in enumerate(ROLES):
            mine = pq.read_table(corpus / "sequences" / split / f"{name}.parquet")
            of_domain = every.filter(pc.equal(every["domain"], domain))
            lines += _different(mine, of_domain, f"{name} {split}", {"user": "user", **TARGET, **LISTS})
    manifest = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    return lines + list(
        _different_counts(manifest, json.loads((by_pandas / "counts.json").read_text(encoding="utf-8")))
    )


def _same_names() -> dict[str, str]:
    return {name: name for name in ("item", "item_id", "domain", "title", "train_count")}


def _different(mine: pa.Table, by_pandas: pa.Table, what: str, columns: Mapping[str, str]) -> Iterator[str]:
    """`columns`: the corpus's name -> pandas's. Integers may differ in width."""
    if len(mine) != len(by_pandas):
        yield f"{what}: {len(mine)} rows, pandas has {len(by_pandas)}"
    if len(mine) != len(by_pandas) or not len(mine):  # pandas gives a column of no lists another type
        return
    for name, pandas_name in columns.items():
        a, b = (table[column].combine_chunks() for table, column in ((mine, name), (by_pandas, pandas_name)))
        if pa.types.is_list(a.type) and not np.array_equal(pc.list_value_length(a), pc.list_value_length(b)):
            yield f"{what}: lists in {name} differ in length"
            continue
        if pa.types.is_list(a.type):
            a, b = a.flatten(), b.flatten()
        if not a.equals(b.cast(a.type)):
            yield f"{what}: {name} differs"


def _different_counts(manifest: Mapping[str, Any], by_pandas: Mapping[str, Any]) -> Iterator[str]:
    times = list(manifest["times"].values())
    if times != [by_pandas["times"]]:
        yield f"split times: {times}, pandas {by_pandas['times']}"
    for domain, (name, steps) in enumerate(manifest["counts"].items()):
        for step, counts in steps.items():
            if counts != by_pandas["counts"][step][domain]:
                yield f"{name} {step}: {counts}, pandas {by_pandas['counts'][step][domain]}"
