"""Users' histories as padded batches of prompts, sorted by length so that little is padding and few shapes are
compiled."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cprec_jax.corpus import Targets
from cprec_jax.errors import UserError
from cprec_jax.inference.padding import fill_batch, pad
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.template import Template


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """b users in B rows. users int64[b]: positions in the targets. rows int64[B]: the user of every row; the last user
    repeats where a row only fills the batch. tokens int32[B, P], lengths int32[B]."""

    users: np.ndarray
    rows: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of all users. tokens: int32[p] per user. users_cut: how many users lost items to the limit;
    items_dropped: how many items they lost, the oldest first; users_emptied: how many users lost every item."""

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
        rows = fill_batch(users, batch_users)
        tokens, lengths = pad([self.tokens[row] for row in rows])
        return PromptBatch(users=users, rows=rows, tokens=tokens, lengths=lengths)


def make_prompts(targets: Targets, scope: str, catalogue: Catalogue, template: Template, max_tokens: int) -> Prompts:
    """The prompt of every record: header and the most recent items that fit `max_tokens` whole."""
    prompts = [
        template.prompt(scope, targets.items[a:b], catalogue, max_tokens)
        for a, b in zip(targets.offsets[:-1], targets.offsets[1:], strict=True)
    ]
    lengths = np.array([len(prompt.tokens) for prompt in prompts], np.int64)
    if len(prompts) and lengths.max() > max_tokens:
        raise UserError(
            f"config.evaluate.prompt_tokens: {max_tokens} does not hold the header of set {scope} ({lengths.max()} "
            "tokens)"
        )
    if len(prompts) and not lengths.min():
        user = targets.user[int(np.argmin(lengths))]
        raise UserError(
            f"set {scope}: the prompt of user {user} is empty (no history that fits, no header); give "
            "config.text.template a header"
        )
    dropped = np.array([prompt.dropped_items for prompt in prompts], np.int64)
    return Prompts(
        tokens=[prompt.tokens for prompt in prompts],
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
