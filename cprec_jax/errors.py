"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake in the input: config, files or arguments.

    The message is ONE line that says what is wrong, where, and how to mend it. `launch.py` prints it without a
    traceback and exits with code 2. Broken invariants of our own are `assert`s and tracebacks, never a `UserError`.
    """


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read. `train` sets it aside and makes it again, so `run` does that by itself."""


def one_line(text: object) -> str:
    """Collapse any exception text to a single line, so that foreign messages can be quoted in a `UserError`."""
    return " ".join(str(text).split())


def shown(path: object) -> str:
    """A path for a message of one line, whatever characters it has."""
    text = str(path)
    return text if text.isprintable() else text.encode("unicode_escape", "surrogateescape").decode("ascii", "replace")


class Preempted(Exception):
    """SIGTERM arrived and a checkpoint was saved; `launch.py` exits with 75, and the same command goes on from
    there."""


class Diverged(RuntimeError):
    """The loss is no longer finite. The message names the step, the rows of its batch and the last good checkpoint."""


class FailedElsewhere(Exception):
    """Another process, counted from 0, failed by an error of ours, whose traceback is its own; the others end with
    it."""

    def __init__(self, text: str, process: int = 0):
        super().__init__(text)
        self.process = process


def agreed(error: Exception) -> Exception:
    """Note on an exception that every process of the job raises it, so that all can end in good order."""
    error.agreed = True  # type: ignore[attr-defined]  # a mark of ours, on exceptions of any class
    return error


def is_agreed(error: BaseException) -> bool:
    return getattr(error, "agreed", False)
