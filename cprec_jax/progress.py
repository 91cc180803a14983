"""Progress on long work: a bar on a terminal, a plain line every few seconds elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


_quiet = False  # whether progress is left unsaid


def say(text: str) -> None:
    """Print one line of progress at once (standard error: standard output belongs to results)."""
    if not _quiet:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave progress unsaid while the block runs: for what is done again and again inside other work."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


class Progress:
    """A counter with a rate. `advance(n, note)` redraws a bar on a terminal, or prints a line every `every_s`
    seconds."""

    def __init__(self, label: str, total: int, unit: str = "", every_s: float = 15.0):
        self.label, self.total, self.unit, self.every_s = label, total, unit, every_s
        self.done = 0
        self._terminal = sys.stderr.isatty()
        self._start = self._last = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else self.every_s) and self.done < self.total:
            return
        self._last = now
        rate = self.done / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        text = f"{self.label}: {self.done}/{self.total} {self.unit} {rate:.1f}/s, {left:.0f} s left {note}".rstrip()
        if self._terminal:
            filled = int(20 * self.done / max(self.total, 1))
            end = "\n" if self.done >= self.total else ""
            if not _quiet:
                print(f"\r[{'#' * filled}{'.' * (20 - filled)}] {text}\x1b[K", file=sys.stderr, end=end, flush=True)
        else:
            say(text)


def track(items: Iterable[T], label: str, total: int, unit: str = "") -> Iterator[T]:
    """Iterate with a `Progress`."""
    progress = Progress(label, total, unit)
    for item in items:
        yield item
        progress.advance()
