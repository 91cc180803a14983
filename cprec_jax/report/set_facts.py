"""What results and the corpus say of a set: how many users, which split, whether it is too small."""

from collections.abc import Mapping, Sequence
from typing import Any

from cprec_jax.corpus import SMALL_SET
from cprec_jax.evaluate.results import Result


def set_names(results: Sequence[Result], manifest: Mapping[str, Any]) -> list[str]:
    """Sets that were evaluated, in the order of the corpus."""
    evaluated = {name for result in results for name in result.sets}
    of_corpus = [name for name in manifest["sets"] if name in evaluated]
    return of_corpus + sorted(evaluated - set(of_corpus))


def test_users(set_name: str, results: Sequence[Result]) -> int:
    return max((result.sets[set_name].users for result in results if set_name in result.sets), default=0)


def split_of(results: Sequence[Result]) -> str:
    """The split that results which may stand in one table were made on."""
    return next((result.split for result in results if result.split != "test"), "test")


def users_of(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> int:
    """How many users the corpus has in a set and the results' split, ranked or not."""
    known = manifest["sets"].get(set_name, {}).get(f"n_{split_of(results)}_users", 0)
    return max(known, test_users(set_name, results))


def is_small(set_name: str, results: Sequence[Result]) -> bool:
    """Whether the corpus has fewer than `SMALL_SET` users in a set and split, as the results say. How many of them were
    ranked is another matter."""
    return _has_fact(set_name, results, "too_small")


def _has_fact(set_name: str, results: Sequence[Result], fact: str) -> bool:
    """Whether a fact is true of a set in any of the results."""
    return any(bool(result.sets[set_name].facts.get(fact)) for result in results if set_name in result.sets)


def small_warning(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> str:
    return small_note(users_of(set_name, results, manifest)) if is_small(set_name, results) else ""


def small_note(users: int) -> str:
    return f"too small: {users:,} users, fewer than {SMALL_SET}; differences mean little"


def _ranked_of(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> str:
    ranked, available = test_users(set_name, results), users_of(set_name, results, manifest)
    return f"{ranked:,}{f' of {available:,}' if ranked < available else ''} {split_of(results)} users"


def describe_set(set_name: str, results: Sequence[Result], manifest: Mapping[str, Any]) -> str:
    """One line: users (how many of them were ranked), catalogue, role, split."""
    info = manifest["sets"].get(set_name, {})
    parts = [_ranked_of(set_name, results, manifest)]
    if "n_items" in info:
        parts.append(f"{info['n_items']:,} items ranked")
    role = {"pretrain": "seen in pre-training", "downstream": "unseen in pre-training"}.get(info.get("role", ""))
    split = {"time": "global time split", "leave_one_out": "leave-one-out"}.get(info.get("split", ""))
    masked = "items of the history not ranked" if _has_fact(set_name, results, "history_masked") else ""
    return ", ".join([*parts, *(part for part in (role, split, masked) if part)])
