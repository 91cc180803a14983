"""What the scores of one batch of users say: a piece of what is collected of a set. Processes that share a set hand
their pieces over in files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.method import Scored
from cprec_jax.evaluate.ranks import Ranks, rank
from cprec_jax.inference.finite import check_finite

TOP = 10
EXAMPLES = 3  # users of a set that are kept with titles, for a person to look at
FULL, UNMASKED = "full", "full_unmasked"
COUNTS = tuple(count.name for count in fields(Ranks))
OF_USERS = ("nll", "top")  # columns that a piece may lack


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The ranks of one batch of b users, and what else its scores say.

    users int64[b]: positions in the set. ranks: by protocol. nll float64[b], None where there are no probabilities.
    top int64[b, 10], score_sum float64[N]: over these users; None where candidates alone have scores. flat, partial,
    examples: as in `Collected`.
    """

    users: np.ndarray
    ranks: dict[str, Ranks]
    nll: np.ndarray | None
    top: np.ndarray | None = None
    score_sum: np.ndarray | None = None
    flat: bool = True
    partial: bool = False
    examples: list[dict[str, Any]] = field(default_factory=list)


def piece_of(batch: Scored, data: EvalSet, name: str) -> Piece:
    """Rank the users of a batch under every protocol. name: of the row, for the message where scores are not finite."""
    target = data.target[batch.users]
    ranks: dict[str, Ranks] = {}
    of_scores: dict[str, Any] = {}
    if batch.scores is not None:
        check_finite(batch.scores, f"{name} on {data.name}")
        ranks, of_scores = _full(data, batch, batch.scores)
    for protocol, columns in data.candidates.items():
        chosen = columns[batch.users]
        scores = batch.by_protocol.get(protocol)
        if scores is None:
            if batch.scores is None:
                continue
            scores = np.take_along_axis(batch.scores, chosen, axis=1)
        check_finite(scores, f"{name} on {data.name}, {protocol}")
        ranks[protocol] = rank(scores, np.argmax(chosen == target[:, None], axis=1))
    nll = None if batch.log_probs is None else -batch.log_probs[np.arange(len(target)), target].astype(np.float64)
    return Piece(users=batch.users, ranks=ranks, nll=nll, **of_scores)


def _full(data: EvalSet, batch: Scored, scores: np.ndarray) -> tuple[dict[str, Ranks], dict[str, Any]]:
    """The ranks among the whole catalogue, and the other fields of a `Piece` that scores of it give."""
    target = data.target[batch.users]
    excluded = data.excluded(batch.users)
    ranks = {FULL: rank(scores, target, excluded)}
    if excluded is not None:
        ranks[UNMASKED] = rank(scores, target)
    visible = scores if excluded is None else np.where(excluded, -np.inf, scores)
    width = min(TOP, len(data.items))
    top = np.argpartition(-visible, width - 1, axis=1)[:, :width]
    return ranks, {
        "top": top,
        "score_sum": scores.sum(axis=0, dtype=np.float64),
        "flat": bool((scores == scores[:, :1]).all()),
        "partial": batch.partial,
        "examples": [
            _example(data, batch, int(row), ranks[FULL], top[row], visible[row])
            for row in np.flatnonzero(batch.users < EXAMPLES)
        ],
    }


def _example(
    data: EvalSet, batch: Scored, row: int, ranks: Ranks, top: np.ndarray, visible_N: np.ndarray
) -> dict[str, Any]:
    """What a person needs to judge one user's recommendations: titles, with probabilities of the whole catalogue where
    there are some."""
    user = int(batch.users[row])
    target = int(data.target[user])
    top = top[np.argsort(-visible_N[top], kind="stable")]
    history = np.searchsorted(
        data.items, data.targets.items[data.targets.offsets[user] : data.targets.offsets[user + 1]]
    )
    probability = (
        {} if batch.log_probs is None else {i: float(np.exp(batch.log_probs[row, i])) for i in (*top.tolist(), target)}
    )
    return {
        "set": data.name,
        "user": int(data.targets.user[user]),
        "history": [data.titles[i] for i in history],
        "target": data.titles[target],
        "rank": float(1 + ranks.n_better[row] + ranks.n_tied[row] / 2),
        "probability": probability.get(target),
        "top": [[data.titles[i], probability.get(i)] for i in top.tolist()],
    }


def write_pieces(path: Path, pieces: Mapping[int, Piece]) -> None:
    """One file of pieces by the numbers of their batches. All are of one method on one set, so they have the same
    columns."""
    given = list(pieces.values())
    arrays = {
        "number": np.array(list(pieces), np.int64),
        "size": np.array([len(piece.users) for piece in given], np.int64),
        "flat": np.array([piece.flat for piece in given], bool),
        "partial": np.array([piece.partial for piece in given], bool),
        "examples": np.array(json.dumps([piece.examples for piece in given])),
    }
    if given:
        arrays["users"] = np.concatenate([piece.users for piece in given])
        for protocol in given[0].ranks:
            for count in COUNTS:
                counts = [getattr(piece.ranks[protocol], count) for piece in given]
                arrays[f"{count}/{protocol}"] = np.concatenate(counts)
        for column in OF_USERS:
            if getattr(given[0], column) is not None:
                arrays[column] = np.concatenate([getattr(piece, column) for piece in given])
        if given[0].score_sum is not None:
            arrays["score_sum"] = np.stack([piece.score_sum for piece in given if piece.score_sum is not None])
    np.savez(path, **arrays)  # type: ignore[arg-type]  # which takes a name for its flag


def read_pieces(path: Path) -> dict[int, Piece]:
    """What `write_pieces` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    protocols = [key.partition("/")[2] for key in arrays if key.startswith(f"{COUNTS[0]}/")]
    examples = json.loads(str(arrays["examples"]))
    ends = np.cumsum(arrays["size"])
    pieces = {}
    for i, number in enumerate(arrays["number"].tolist()):
        rows = slice(int(ends[i] - arrays["size"][i]), int(ends[i]))
        pieces[number] = Piece(
            users=arrays["users"][rows],
            ranks={
                protocol: Ranks(**{count: arrays[f"{count}/{protocol}"][rows] for count in COUNTS})
                for protocol in protocols
            },
            **{column: arrays[column][rows] if column in arrays else None for column in OF_USERS},
            score_sum=arrays["score_sum"][i] if "score_sum" in arrays else None,
            flat=bool(arrays["flat"][i]),
            partial=bool(arrays["partial"][i]),
            examples=examples[i],
        )
    return pieces
