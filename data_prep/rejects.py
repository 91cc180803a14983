"""What was refused, why and how often, with the first few examples: nothing is lost silently."""

from collections.abc import Iterable
from typing import Any

from cprec_jax.errors import UserError

SAMPLES = 5
SAMPLE_LENGTH = 120


class Rejects:
    """Counts by reason. `bad_lines` are defects of a file and limited per file; `count` is for data that merely does not qualify."""

    def __init__(self, max_bad_lines: int):
        self.max_bad_lines = max_bad_lines
        self._reasons: dict[str, dict[str, Any]] = {}
        self._bad_lines: dict[str, int] = {}

    def count(self, reason: str, n: int, samples: Iterable[str] = ()) -> None:
        """Add `n` cases of `reason`; the first few samples over the whole run are kept."""
        if not n:
            return
        entry = self._reasons.setdefault(reason, {"n": 0, "samples": []})
        entry["n"] += int(n)
        room = SAMPLES - len(entry["samples"])
        entry["samples"] += [_shorten(sample) for _, sample in zip(range(room), samples, strict=False)]

    def bad_lines(self, reason: str, n: int, path: str, samples: Iterable[str]) -> None:
        """Like `count`, but an error when one file has more than `max_bad_lines` of them in all; `samples` name the lines."""
        samples = list(samples)
        self.count(reason, n, [f"{path}: {sample}" for sample in samples])
        self._bad_lines[path] = self._bad_lines.get(path, 0) + int(n)
        if self._bad_lines[path] > self.max_bad_lines:
            first = _shorten(samples[0]) if samples else "no example"
            raise UserError(
                f"{path}: {self._bad_lines[path]} bad lines, more than config.corpus.max_bad_lines = {self.max_bad_lines}; "
                f"{reason}, first {first}; mend the file or raise the limit"
            )

    def as_dict(self) -> dict[str, Any]:
        return self._reasons


def _shorten(text: str) -> str:
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= SAMPLE_LENGTH else text[: SAMPLE_LENGTH - 1] + "…"
