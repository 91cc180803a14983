"""The future stays out of what is trained on: from the raw files to the packed rows."""

from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax.rows import dataset as rows
from tests import run_jobs as jobs
from tests.data_prep.tables import numbered_titles, random_interactions, table_source

T1 = 700
PLANTED = "Zebra"  # the title of an item that is met after t1 only


def config_of(folder: Path, planted: bool) -> dict[str, Any]:
    """Two domains and a downstream set of one platform; `planted`: everybody meets everything, and the zebra, after
    t1."""
    titles = {**numbered_titles(), "i25": PLANTED}
    sources = {}
    for n, (name, role) in enumerate((("books", "pretrain"), ("films", "pretrain"), ("songs", "downstream"))):
        interactions = random_interactions(n)
        if planted:
            interactions += [
                (f"u{user}", f"i{item}", T1 + (user * item) % 299) for user in range(60) for item in range(n, 26, 3)
            ]
            interactions += [(f"u{user}", "i25", T1) for user in range(60)]
        sources[name] = table_source(folder / name, interactions, titles, role)
    return {
        "name": "leak",
        "corpus": {
            "sources": sources,
            "times": {"default": {"t1": T1, "t2": 850}},
            "k_core": 0,
            "candidates": {"protocols": ["u3"]},
        },
        "text": {"tokenizer": "train", "vocab_size": 300, "template": {"header": "{scope}:\n"}},
        "pack": {"row_length": 64, "stages": ["cpt", "sft"]},
    }


def packed(folder: Path, planted: bool) -> tuple[dict[str, list[tuple[bytes, bytes]]], str]:
    """(tokens, document lengths) of all rows of each source, and all of their text."""
    from transformers import AutoTokenizer

    config = config_of(folder, planted)
    jobs.prepare(config, folder)
    jobs.pack(config, folder)
    tokenizer = AutoTokenizer.from_pretrained(_tokenizer_of(folder / "rows" / "cpt"))
    rows_by_split, text = {}, ""
    for stage, source in (("cpt", "books"), ("cpt", "films"), ("cpt", "mixed"), ("sft", "songs")):
        opened = rows.open_split(folder / "rows" / stage, source)
        stored = [opened[n] for n in range(len(opened))]
        rows_by_split[source] = [(row["tokens"].tobytes(), row["lengths"].tobytes()) for row in stored]
        text += tokenizer.decode(np.concatenate([row["tokens"] for row in stored]).tolist())
    return rows_by_split, text


def _tokenizer_of(directory: Path) -> str:
    return str(next(path.parent for path in directory.rglob("tokenizer.json")))


def test_the_future_of_other_domains_never_reaches_a_row_of_pre_training_or_fine_tuning(tmp_path: Path):
    plain, _ = packed(tmp_path / "plain", planted=False)
    planted, text = packed(tmp_path / "planted", planted=True)
    assert all(len(rows) > 3 for rows in plain.values())
    assert planted == plain
    assert "Title 3" in text and PLANTED not in text
