"""Users' histories as padded batches of prompts, sorted by length so that little is padding and few shapes are
compiled."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cprec_jax.corpus import Targets
from cprec_jax.errors import UserError
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.template import Template

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # few: each is compiled once for every catalogue


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """`users` int64[b] are positions in the targets; `tokens` int32[B, P] and `lengths` int32[B] with B >= b (the rest
    repeats a user)."""

    users: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """All users' prompts: ragged tokens, how many users lost how many of their oldest items to the limit, and how many
    lost every item."""

    tokens: list[np.ndarray]
    users_cut: int
    items_dropped: int
    users_emptied: int

    def batches(self, batch_users: int) -> Iterator[PromptBatch]:
        """Every user once, shortest prompts first; always `batch_users` rows, so that shapes repeat."""
        lengths = np.array([len(t) for t in self.tokens], np.int64)
        order = np.argsort(lengths, kind="stable")
        for first in range(0, len(order), batch_users):
            yield self.batch(order[first : first + batch_users], batch_users)

    def batch(self, users: np.ndarray, batch_users: int) -> PromptBatch:
        """The prompts of these users (at most `batch_users`), filled up to `batch_users` rows."""
        rows = np.concatenate([users, np.repeat(users[-1:], batch_users - len(users))])
        lengths = np.array([len(self.tokens[row]) for row in rows], np.int64)
        width = next((length for length in LENGTHS if length >= lengths.max()), int(lengths.max()))
        tokens = np.zeros((batch_users, width), np.int32)
        for at, row in enumerate(rows):
            tokens[at, : lengths[at]] = self.tokens[row]
        return PromptBatch(users=users, tokens=tokens, lengths=lengths.astype(np.int32))


def make_prompts(targets: Targets, scope: str, catalogue: Catalogue, template: Template, max_tokens: int) -> Prompts:
    """The prompt of every record: header and the most recent items that fit `max_tokens` whole."""
    made = [
        template.prompt(scope, targets.items[a:b], catalogue, max_tokens)
        for a, b in zip(targets.offsets[:-1], targets.offsets[1:], strict=True)
    ]
    lengths = np.array([len(prompt.tokens) for prompt in made], np.int64)
    if len(made) and lengths.max() > max_tokens:
        raise UserError(
            f"config.evaluate.prompt_tokens: {max_tokens} does not hold the header of set {scope} ({lengths.max()} "
            f"tokens)"
        )
    if len(made) and not lengths.min():
        user = targets.user[int(np.argmin(lengths))]
        raise UserError(
            f"set {scope}: the prompt of user {user} is empty (no history that fits, no header); give "
            f"config.text.template a header"
        )
    dropped = np.array([prompt.dropped_items for prompt in made], np.int64)
    return Prompts(
        tokens=[prompt.tokens for prompt in made],
        users_cut=int(np.count_nonzero(dropped)),
        items_dropped=int(dropped.sum()),
        users_emptied=int(np.count_nonzero((dropped > 0) & (dropped == np.diff(targets.offsets)))),
    )


def without_history(targets: Targets) -> Targets:
    """The first of the records, as if its user had done nothing yet."""
    return replace(
        targets,
        **{name: getattr(targets, name)[:1] for name in ("user", "target", "target_time", "untied", "seen")},
        offsets=np.zeros(2, targets.offsets.dtype),
        items=targets.items[:0],
        times=targets.times[:0],
    )
