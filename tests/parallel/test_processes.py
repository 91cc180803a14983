"""What the first of several processes decides or fails at, all do; with one process everything is a plain call."""

import pytest

from cprec_jax.errors import UserError
from cprec_jax.parallel import processes
from tests.processes import free_port, together

PROCESS = """
import sys
from cprec_jax.errors import DamagedCheckpoint, FailedElsewhere, UserError, is_agreed
from cprec_jax.parallel import distributed, processes

coordinator, number = sys.argv[1:]
distributed.start(coordinator, "2", number)
first = number == "0"
assert (processes.count(), processes.index(), processes.is_first()) == (2, int(number), first)
called = []

def value():
    called.append(1)
    nested = processes.from_first(lambda: processes.any_of(True))
    return {"a": [1, None, "x"], "alone": processes.is_alone(), "nested": nested}

assert processes.from_first(value) == {"a": [1, None, "x"], "alone": True, "nested": True}
assert len(called) == first and not processes.is_alone()
processes.by_first(lambda: object())  # what is no JSON stays where it is
assert processes.of_all(number) == (["0", "1"] if first else None)
assert [processes.any_of(flag) for flag in (False, first, not first, True)] == [False, True, True, True]

def fail(error):
    raise error

for error, expected in (
    (UserError("two\\nlines"), UserError),
    (DamagedCheckpoint("step 3"), DamagedCheckpoint),
    (ZeroDivisionError("by\\nzero"), ZeroDivisionError if first else FailedElsewhere),
):
    try:
        processes.from_first(lambda: fail(error))
    except Exception as raised:
        assert type(raised) is expected and is_agreed(raised), raised
        assert " ".join(str(raised).split()) == " ".join(str(error).split())
        assert expected is not UserError or str(raised) == "two\\nlines"
    else:
        raise AssertionError(error)
assert processes.from_first(lambda: 7) == 7  # all are where they were
"""


@pytest.mark.slow
def test_two_processes() -> None:
    together(["-c", PROCESS, f"127.0.0.1:{free_port()}"], [["0"], ["1"]])


def test_one_process_calls_and_raises_as_it_is() -> None:
    thing = object()
    assert processes.from_first(lambda: thing) is thing
    assert processes.any_of(True) and not processes.any_of(False)
    assert processes.of_all(thing) == [thing] and processes.is_first() and not processes.is_alone()
    with pytest.raises(UserError, match="no"):
        processes.by_first(lambda: (_ for _ in ()).throw(UserError("no")))
