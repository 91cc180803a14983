"""What the first of several processes decides or fails at, all do; with one process everything is a plain call."""

from pathlib import Path

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

def answer(request, check):
    check()
    assert processes.is_alone() and processes.from_first(lambda: 3) == 3
    if request == "fail":
        raise UserError("the second\\ncannot")
    if request == "break":
        raise ZeroDivisionError("by zero")
    return [request, processes.index()]

answers = []

def ask(others):
    assert len(others) == 1
    forgotten = others.ask("fail")  # nobody asks for this answer
    number = others.ask({"a": 1})
    answers.extend(others.answers(number))
    others.check(number)

processes.by_first_with_others(ask, answer)
assert answers == ([[{"a": 1}, 1]] if first else []) and not processes.is_alone()

def answers_of(request):
    return lambda others: others.answers(others.ask(request))

def failing(others):
    others.ask("x")
    raise UserError("the first")

for function, expected, text in (
    (answers_of("fail"), UserError, "the second cannot"),
    (answers_of("break"), FailedElsewhere if first else ZeroDivisionError, "by zero"),
    (failing, UserError, "the first"),
    (lambda others: 1 / 0, ZeroDivisionError if first else FailedElsewhere, "division by zero"),
):
    try:
        processes.by_first_with_others(function, answer)
    except Exception as raised:
        assert type(raised) is expected and is_agreed(raised), raised
        assert " ".join(str(raised).split()) == text, raised
        if expected is FailedElsewhere:
            assert raised.process == (1 if first else 0)
    else:
        raise AssertionError(text)
assert processes.from_first(lambda: 8) == 8
"""

FAILED_MEANWHILE = """
import sys, time
from cprec_jax.errors import UserError
from cprec_jax.parallel import distributed, processes

coordinator, number = sys.argv[1:]
distributed.start(coordinator, "2", number)

def answer(request, check):
    for _ in range(6000):  # ten minutes
        check()
        time.sleep(0.1)

def fail(others):
    others.ask("long work")
    raise UserError("no")

def follow(others):
    number = others.ask("long work")
    while True:
        others.check(number)
        time.sleep(0.1)

def broken(request, check):
    raise UserError("no")

for function, answering in ((fail, answer), (follow, broken)):
    try:
        processes.by_first_with_others(function, answering)
    except UserError as error:
        assert str(error) == "no"
    else:
        raise AssertionError
"""

CACHED = """
import sys
import jax
from cprec_jax.parallel import distributed

coordinator, number = sys.argv[1:]
distributed.start(coordinator, "2", number)
jax.jit(lambda x: x * 2)(jax.numpy.ones(3))
"""


@pytest.mark.slow
def test_two_processes() -> None:
    together(["-c", PROCESS, f"127.0.0.1:{free_port()}"], [["0"], ["1"]])


@pytest.mark.slow
def test_whoever_fails_ends_long_work_of_the_other() -> None:
    together(["-c", FAILED_MEANWHILE, f"127.0.0.1:{free_port()}"], [["0"], ["1"]])


def test_one_process_calls_and_raises_as_it_is() -> None:
    thing = object()
    assert processes.from_first(lambda: thing) is thing
    assert processes.any_of(True) and not processes.any_of(False)
    assert processes.of_all(thing) == [thing] and processes.is_first() and not processes.is_alone()
    with pytest.raises(UserError, match="no"):
        processes.by_first(lambda: (_ for _ in ()).throw(UserError("no")))
    asked: list[int] = []
    processes.by_first_with_others(lambda others: asked.append(len(others)), lambda *_: 1 / 0)
    assert asked == [0], "there is nobody to ask"


@pytest.mark.slow
def test_programs_of_several_cpu_processes_are_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA does not keep the order of the collectives of a program that it reads back."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    together(["-c", CACHED, f"127.0.0.1:{free_port()}"], [["0"], ["1"]])
    assert not list(tmp_path.iterdir())
