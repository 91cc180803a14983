"""Made-up work directories: a corpus manifest, results of several methods, and training metrics."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HASH = "c0" * 32
N_ITEMS = 300
# HR@10 by method; the other metrics follow from it.
QUALITY = {"popularity": 0.06, "untrained": 0.035, "cpt-50": 0.17, "cpt": 0.24, "oracle": 0.33}
KINDS = {"cpt-50": "checkpoint", "cpt": "checkpoint"}
STEPS = {"untrained": 0, "cpt-50": 150, "cpt": 300}


def measured(hr10: float, users: int = 800, interval: bool = True) -> dict[str, Any]:
    """One protocol's metrics as the harness writes them."""
    values = {
        "hr@1": hr10 / 5,
        "hr@5": hr10 / 1.6,
        "hr@10": hr10,
        "hr@20": hr10 * 1.3,
        "hr@100": min(1.0, hr10 * 2.2 + 0.1),
    }
    values |= {"ndcg@5": hr10 / 2.6, "ndcg@10": hr10 / 2, "mrr": hr10 / 2.4, "nll": 6.2 - 4 * hr10}
    if not interval:
        return values
    half = 1.96 * math.sqrt(hr10 * (1 - hr10) / users)
    return {**values, "ci95": {key: [value - half, value + half] for key, value in values.items()}}


def result(name: str, hr10: float, sets: Mapping[str, int], kind: str | None = None, **extra: Any) -> dict[str, Any]:
    """A results.json: `sets` maps set names to test users."""
    content = {}
    for place, (set_name, users) in enumerate(sets.items()):
        here = hr10 * (1 - 0.1 * place)
        parts = {
            "warm": (1.1, 0.8),
            "cold": (0.5, 0.2),
            "never seen": (0.2, 0.05),
            "untied": (0.95, 0.7),
            "history 1-5": (0.8, 0.4),
            "unseen users": (0.9, 0.3),
        }
        content[set_name] = {
            "users": users,
            "protocols": {
                "full": measured(here, users),
                "u20": measured(min(0.9, 2 * here + 0.2), users),
                "full_unmasked": measured(here * 0.9, users),
            },
            "items": N_ITEMS,
            "too_small": users < 500,
            "history_masked": True,
            "coverage@10": 0.42,
            "popularity_percentile@10": 0.8123,
            "score_length_correlation": -0.25,
            "temperature": 1.15,
            "slices": {
                part: {"users": int(users * share), **measured(here * factor, users, interval=False)}
                for part, (factor, share) in parts.items()
            },
        }
    return {
        "name": name,
        "kind": kind or KINDS.get(name, name),
        "protocol_version": 1,
        "corpus_hash": HASH,
        "scoring_rule": "trie",
        "seeds": [0],
        "sets": content,
        "split": "test",
        "cost": {"seconds": 12.5, "users_per_second": 66.4, "seconds_by_set": dict.fromkeys(sets, 1.25)},
        **({"step": STEPS[name]} if name in STEPS else {}),
        **extra,
    }


def manifest(sets: Mapping[str, int]) -> dict[str, Any]:
    """A corpus manifest; the last set is unseen in pre-training."""
    last = list(sets)[-1]
    steps = {"read": 24745, "without exact duplicates": 24101, "training period": 19782, "after k-core": 14935}
    return {
        "version": 1,
        "corpus_hash": HASH,
        "domains": list(sets),
        "n_items": N_ITEMS * len(sets),
        "sources": {name: {"platform": "synthetic"} for name in sets},
        "sets": {
            name: {
                "role": "downstream" if name == last else "pretrain",
                "split": "time",
                "n_items": N_ITEMS,
                "n_test_users": users,
                "n_valid_users": users,
                "n_test_targets_never_trained": 3,
                "too_small": users < 500,
            }
            for name, users in sets.items()
        },
        "candidates": {name: {"u20": {"asked": 20, "valid": 20, "test": 20}} for name in sets},
        "times": {"synthetic": {"t1": 1625244360, "t2": 1628379320}},
        "filters": {"k_core": dict.fromkeys(sets, 5), "k_core_rounds": 2, "min_history": 1},
        "counts": {
            name: {s: {"interactions": n, "users": 1984, "items": N_ITEMS} for s, n in steps.items()} for name in sets
        },
        "rejected": {"item without a title": {"n": 12, "samples": ["items.tsv: line 7: <b>B00|x</b>"]}},
        "titles": {"policy": "merge", "max_length": 300, "read": 1200, "cut": 0},
        "mixed": {"users": 1981, "interactions": 31352},
    }


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_workdir(path: Path, sets: Mapping[str, int], quality: Mapping[str, float] = QUALITY, steps: int = 300) -> Path:
    """corpus/manifest.json, results/NAME/results.json for every method, runs/cpt/metrics.jsonl."""
    write(path / "corpus" / "manifest.json", manifest(sets))
    for number, (name, hr10) in enumerate(quality.items()):
        write(path / "results" / f"{number}" / "results.json", result(name, hr10, sets))
    run = path / "runs" / "cpt"
    run.mkdir(parents=True)
    lines = [metrics_line(step, steps) for step in range(3, steps + 1, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def metrics_line(step: int, steps: int) -> dict[str, float]:
    noise = 0.12 * math.sin(step * 12.9898)
    warm, anneal = 0.05 * steps, 0.7 * steps
    lr = 4e-3 * (step / warm if step < warm else 1.0 if step < anneal else (steps - step) / (steps - anneal))
    loss = 1.9 + 3.8 * math.exp(-step / 60) + noise
    speed = 21000 + 900 * math.sin(step)
    return {
        "step": step,
        "tokens": step * 2048,
        "loss": loss,
        "lr": lr,
        "grad_norm": 1.0,
        "tokens_per_second": speed,
        "seconds": step / 10,
        "time": 1e9,
    }


def config(**report: Any) -> dict[str, Any]:
    return {
        "name": "demo",
        "evaluate": {"names": {name: {"kind": "random"} for name in QUALITY}},
        "report": {"title": "Demo", **report},
    }
