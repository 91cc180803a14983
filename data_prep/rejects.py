"""What was refused, why and how often, with the first few examples: nothing is lost silently."""

from collections.abc import Collection, Iterable
from typing import Any

from cprec_jax.config.source import READ_BY
from cprec_jax.errors import UserError, shown

SAMPLES = 5
SAMPLE_LENGTH = 120


class Rejects:
    """Counts by reason. `bad_lines` are defects of a file and limited per file; `count` is for data that merely does
    not qualify.

    `lines_of` holds the bad lines again by source and file ("interactions", "items"); `source` is the one that is being
    read, by an adapter that `reads` these keys.
    """

    def __init__(self, max_bad_lines: int):
        self.max_bad_lines = max_bad_lines
        self.source = ""
        self.reads: Collection[str] = READ_BY["table"]
        self.lines_of: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        self._reasons: dict[str, dict[str, Any]] = {}
        self._bad_lines: dict[str, int] = {}

    def count(self, reason: str, n: int, samples: Iterable[str] = ()) -> None:
        """Add `n` cases of `reason`; the first few samples over the whole run are kept."""
        if n:
            _add(self._reasons, reason, n, map(shorten, samples))

    def bad_lines(self, reason: str, n: int, path: str, samples: Iterable[str], which: str = "interactions") -> None:
        """Like `count`, but an error when one file has more than `max_bad_lines` of them in all; `samples` name the
        lines."""
        # not the path before them, which alone may be longer than a sample
        samples = [shorten(sample) for sample in samples]
        if n:
            lines = self.lines_of.setdefault((self.source, which), {})
            for entries in (self._reasons, lines):
                _add(entries, reason, n, [f"{shown(path)}: {sample}" for sample in samples])
            lines[reason]["cause"] = likely_cause(reason, self.reads)
        self._bad_lines[path] = self._bad_lines.get(path, 0) + int(n)
        if self._bad_lines[path] > self.max_bad_lines:
            first = samples[0] if samples else "no example"
            advice = f"{cause}; " if (cause := likely_cause(reason, self.reads)) else ""
            raise UserError(
                f"{shown(path)}: {self._bad_lines[path]} bad lines, more than config.corpus.max_bad_lines = "
                f"{self.max_bad_lines}; "
                f"{reason}, first {first}; {advice}mend the file or raise the limit"
            )

    def why_nothing(self, which: str) -> str:
        """For a file of the source without one good line: what most of them are, and what to do."""
        bad = self.lines_of.get((self.source, which), {})
        if not bad:
            return f"an empty {which} file makes no corpus"
        reason, entry = max(bad.items(), key=lambda item: item[1]["n"])
        first = "".join(f", first {sample}" for sample in entry["samples"][:1])
        return f"{reason} ({entry['n']:,} times{first}{'; ' if entry['cause'] else ''}{entry['cause']})"

    def as_dict(self) -> dict[str, Any]:
        return self._reasons


# How a reason begins -> what mostly is behind it, and the key of the source that the advice names: not every adapter
# reads it.
_CAUSES = {
    "unparsable timestamp": (
        "read are unix seconds and ISO 8601 such as 2017-07-14, 2017-07-14T13:40:00 (UTC), 2017-07-14T13:40:00+09:00, "
        "2017-07-14 13:40 Asia/Tokyo",
        None,
    ),
    "unparsable position": ("a position is a whole number", None),
    "timestamp after": ("milliseconds need time_unit = 'ms'; smaller units are not read", "time_unit"),
    "timestamp in seconds": ("leave time_unit out of the source", "time_unit"),
    "timestamp without": ("a spreadsheet cut it: export the times as text", None),
    "timestamp that is": ("write it as unix seconds, or as ISO 8601 such as 2014-01-05", None),
    "malformed line: invalid": (
        "the file is not UTF-8; for one of Windows set its encoding to 'cp1252' (`files` of the source)",
        "files",
    ),
    "malformed line: missing columns": (
        "a line break within a field, or another delimiter? see `quote` and `delimiter`",
        "files",
    ),
    "malformed line: too many columns": (
        "the delimiter within a field, or another delimiter? see `quote` and `delimiter`",
        "files",
    ),
    "malformed line: unquoted value": (
        "text after a closing quote; a quote within a quoted field is doubled, and has no backslash before it; "
        "if quotes are ordinary characters there, set quote = 'none'",
        "files",
    ),
    "malformed line: neither JSON": ("one record a line is read", None),
    "missing user": ("the column of the users is empty there", None),
    "missing item": ("the column of the items is empty there", None),
    "item without id": ("the column of the items is empty there", None),
    "line break in": ("a quote before it is not closed", None),
    "negative timestamp": ("before 1970, or a number such as -1 that stands for no time: leave such rows out", None),
    "negative position": ("a position is a whole number from 0 on", None),
}


def likely_cause(reason: str, reads: Collection[str]) -> str:
    """What mostly is behind a reason of bad lines, and what to do where the adapter `reads` the key for it; "" where
    that is plain."""
    causes = (cause for begin, cause in _CAUSES.items() if reason.startswith(begin))
    return next((cause for cause, key in causes if key is None or key in reads), "")


def _add(reasons: dict[str, dict[str, Any]], reason: str, n: int, samples: Iterable[str]) -> None:
    entry = reasons.setdefault(reason, {"n": 0, "samples": []})
    entry["n"] += int(n)
    room = SAMPLES - len(entry["samples"])
    entry["samples"] += [sample for _, sample in zip(range(room), samples, strict=False)]


def shorten(text: str, length: int = SAMPLE_LENGTH) -> str:
    """The text for a line of a message: printable, and at most `length` characters."""
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= length else text[: length - 1] + "…"


def named(identifier: str) -> str:
    """An id for a message: in quotation marks where it begins or ends with a blank, which nobody would see."""
    return shorten(identifier if identifier == identifier.strip() else repr(identifier))
