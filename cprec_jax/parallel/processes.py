"""Coordination of a job's processes on the host: broadcast from the first, gather to the first, reduce a flag, work
that the first asks of the others.


It uses the key-value store of jax's coordinator. So waiting for hours occupies no device and hits no timeout of a
collective, and a process that dies ends the others' waiting. All processes must make the same calls in the same order.
With one process everything is a plain call.
"""

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from cprec_jax import errors
from cprec_jax.errors import DamagedCheckpoint, Diverged, FailedElsewhere, Preempted, UserError, one_line

T = TypeVar("T")

END = "end"  # the key of the last request: how the first process ended
_WAIT_MS = 7 * 24 * 3600 * 1000  # a week: where the other process dies, jax ends this one
_KINDS = {kind.__name__: kind for kind in (UserError, DamagedCheckpoint, Preempted, Diverged)}
_number = itertools.count()  # of the call: the same in all processes
_alone = False  # whether others wait for what this process does by itself


def _state() -> Any:
    from jax._src import distributed  # as orbax does: the store has no public name

    return distributed.global_state


def count() -> int:
    """The number of processes; 1 where jax is not distributed, or not imported yet."""
    return _state().num_processes or 1 if "jax" in sys.modules else 1


def index() -> int:
    """The number of this process, counted from 0."""
    return _state().process_id or 0 if "jax" in sys.modules else 0


def is_first() -> bool:
    """Whether this is process 0."""
    return index() == 0


def is_alone() -> bool:
    """Whether others wait for what this process does (`from_first`, `by_first_with_others`): it must not wait for them
    then."""
    return _alone


def from_first(function: Callable[[], T]) -> T:
    """Call `function` in the first process, and return its value in all.

    The others wait, and get the value through JSON (tuples become lists). What it raises is raised in all: `UserError`,
    `DamagedCheckpoint`, `Preempted` and `Diverged` as themselves, anything else as `FailedElsewhere` in the others.
    """
    if count() == 1 or _alone:
        return function()
    client, key = _state().client, f"cprec/{next(_number)}"
    if not is_first():
        text = client.blocking_key_value_get(key, _WAIT_MS)
        try:
            return _value(text)
        except Exception as error:
            errors.agreed(error)
            raise
    try:
        with _while_others_wait():
            value = function()
    except Exception as error:
        client.key_value_set(key, json.dumps(_message(error)))
        errors.agreed(error)
        raise
    client.key_value_set(key, json.dumps({"value": value}))
    return value


def by_first(function: Callable[[], object]) -> None:
    """Call `function` in the first process, while the others wait. What it raises is raised in all."""

    def nothing_returned() -> None:
        function()

    from_first(nothing_returned)


class Others:
    """The processes that wait for the first one, which may ask them for work meanwhile. With one process there are
    none."""

    def __init__(self, key: str | None = None):
        self._key, self._asked = key, 0

    def __len__(self) -> int:
        return 0 if self._key is None else count() - 1

    def ask(self, request: Any) -> int:
        """Give a request, a JSON value, to each of them, and wait for nothing. Gives its number."""
        assert self._key is not None
        self._asked += 1
        _state().client.key_value_set(f"{self._key}/{self._asked}", json.dumps(request))
        return self._asked

    def check(self, number: int) -> None:
        """Raise what one of them has failed at by now."""
        for process in range(1, count()):
            if (text := _look(self._answer_key(number, process))) is not None:
                _value(text)

    def answers(self, number: int) -> list[Any]:
        """What they answered, JSON values, by their numbers. What one failed at is raised."""
        client = _state().client
        return [
            _value(client.blocking_key_value_get(self._answer_key(number, process), _WAIT_MS))
            for process in range(1, count())
        ]

    def _answer_key(self, number: int, process: int) -> str:
        return f"{self._key}/{number}/{process}"


Answer = Callable[[Any, Callable[[], None]], Any]


def by_first_with_others(function: Callable[[Others], object], answer: Answer) -> None:
    """Do something in the first process, which may ask the others while they wait.

    What the first raises is raised in all; what others failed at is raised in the first where it asks for their
    answers. A process that failed by an error of ours raises that itself.

    Args:
      answer: what the others do with a request. Its second argument raises where the first has failed meanwhile, so
        that nobody wants the answer; long work calls it now and then.
    """
    if count() == 1 or _alone:
        function(Others())
        return
    key = f"cprec/{next(_number)}"
    if not is_first():
        _answer_all(key, answer)
        return
    others = Others(key)
    try:
        with _while_others_wait():
            function(others)
    except Exception as error:
        _state().client.key_value_set(f"{key}/failed", "")
        others.ask({END: _message(error)})
        errors.agreed(error)
        raise
    others.ask({END: None})


def _answer_all(key: str, answer: Answer) -> None:
    """Answer what the first process asks until it ends."""
    client = _state().client
    failure: Exception | None = None

    def check() -> None:
        if _look(f"{key}/failed") is not None:
            raise FailedElsewhere("the first process has failed")

    for number in itertools.count(1):
        request = json.loads(client.blocking_key_value_get(f"{key}/{number}", _WAIT_MS))
        if isinstance(request, dict) and END in request:
            break
        try:
            with _while_others_wait():
                message = {"value": answer(request, check)}
        except Exception as error:
            failure, message = error, _message(error)
        client.key_value_set(f"{key}/{number}/{index()}", json.dumps(message))
    if request[END] is None:
        return
    raised = _raised(request[END])
    if failure is not None and isinstance(raised, FailedElsewhere) and not isinstance(failure, FailedElsewhere):
        raised = failure  # the traceback is this one's
    raise errors.agreed(raised)


def _look(key: str) -> str | None:
    """What is stored by now."""
    try:
        return _state().client.key_value_try_get(key)
    except Exception as error:  # jax has no name of its own for it
        if "NOT_FOUND" not in str(error):
            raise
        return None


@contextlib.contextmanager
def _while_others_wait() -> Iterator[None]:
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def _message(error: Exception) -> dict[str, Any]:
    """An exception for other processes. Of one that was raised elsewhere, where."""
    process = error.process if isinstance(error, FailedElsewhere) else index()
    return {"kind": type(error).__name__, "text": _text(error), "process": process}


def _value(text: str) -> Any:
    """What a message of another process says; what that failed at is raised."""
    message = json.loads(text)
    if "kind" in message:
        raise _raised(message)
    return message["value"]


def _raised(message: dict[str, Any]) -> Exception:
    """The exception of a message of another process."""
    kind = _KINDS.get(message["kind"])
    return FailedElsewhere(message["text"], message["process"]) if kind is None else kind(message["text"])


def of_all(value: Any) -> list[Any] | None:
    """Gather JSON values to the first process: those of all processes, in the order of their numbers.

    None in the others, which do not wait.
    """
    if count() == 1 or _alone:
        return [value]
    client, key = _state().client, f"cprec/{next(_number)}"
    client.key_value_set(f"{key}/{index()}", json.dumps(value))
    if not is_first():
        return None
    return [json.loads(client.blocking_key_value_get(f"{key}/{process}", _WAIT_MS)) for process in range(count())]


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process. All processes must call."""
    flags = of_all(flag)
    return from_first(lambda: any(flags or ()))


def _text(error: Exception) -> str:
    """The message in one line; a `UserError` keeps its lines, one per mistake."""
    return str(error) if isinstance(error, UserError) else one_line(error)
