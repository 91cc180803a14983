"""What the processes of a job do together, besides computing: one decides for all, all learn of its failure, a flag of
any is seen by all.

It goes through the key-value store of jax's coordinator, so that waiting for hours occupies no device and has no time
limit of its own; a process that dies ends the others' waiting. With one process everything is a plain call.
"""

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from cprec_jax import errors
from cprec_jax.errors import DamagedCheckpoint, Diverged, FailedElsewhere, Preempted, UserError, one_line

T = TypeVar("T")

_WAIT_MS = 7 * 24 * 3600 * 1000  # a week: whoever is waited for is alive, or jax ends this process
_KINDS = {kind.__name__: kind for kind in (UserError, DamagedCheckpoint, Preempted, Diverged)}
_number = itertools.count()  # all processes make the same calls in the same order
_alone = False  # in what the first does while the others wait


def _state() -> Any:
    from jax._src import distributed  # as orbax does: the store has no public name

    return distributed.global_state


def count() -> int:
    return _state().num_processes or 1 if "jax" in sys.modules else 1


def index() -> int:
    """Of this process, counted from 0."""
    return _state().process_id or 0 if "jax" in sys.modules else 0


def is_first() -> bool:
    return index() == 0


def is_alone() -> bool:
    """Whether the others wait for what this process does: whatever it calls must not wait for them."""
    return _alone


def from_first(function: Callable[[], T]) -> T:
    """What `function` gives in the first process; the others wait, and get it as JSON gives it back. What it raises is
    raised in all."""
    global _alone
    if count() == 1 or _alone:
        return function()
    client, key = _state().client, f"cprec/{next(_number)}"
    if not is_first():
        message = json.loads(client.blocking_key_value_get(key, _WAIT_MS))
        if "kind" not in message:
            return message["value"]
        raise errors.agreed(_KINDS.get(message["kind"], FailedElsewhere)(message["text"]))
    _alone = True
    try:
        value = function()
    except Exception as error:
        client.key_value_set(key, json.dumps({"kind": type(error).__name__, "text": _text(error)}))
        errors.agreed(error)
        raise
    finally:
        _alone = False
    client.key_value_set(key, json.dumps({"value": value}))
    return value


def by_first(function: Callable[[], object]) -> None:
    """Do something in the first process alone, while the others wait."""

    def nothing_returned() -> None:
        function()

    from_first(nothing_returned)


def of_all(value: Any) -> list[Any] | None:
    """The JSON values of all processes, by their numbers, in the first; None in the others, which do not wait."""
    if count() == 1 or _alone:
        return [value]
    client, key = _state().client, f"cprec/{next(_number)}"
    client.key_value_set(f"{key}/{index()}", json.dumps(value))
    if not is_first():
        return None
    return [json.loads(client.blocking_key_value_get(f"{key}/{process}", _WAIT_MS)) for process in range(count())]


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process. All must call."""
    flags = of_all(flag)
    return from_first(lambda: any(flags or ()))


def _text(error: Exception) -> str:
    """A `UserError` may have a line per mistake."""
    return str(error) if isinstance(error, UserError) else one_line(error)
