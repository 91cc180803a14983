"""Clean titles: one readable line, the same for the same title however a platform wrote it."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_SPACE = re.compile(r"\s+")
# Joiners build emoji and scripts such as Persian; every other control, format or private character is invisible noise.
# Unassigned ones stay: which they are depends on Python's version.
_JOINERS = "\u200c\u200d"
_NOISE = ("Cc", "Cf", "Cs", "Co")
_UNESCAPE_ROUNDS = 3
# What programs write where there is no value (pandas, R, SQL, spreadsheets), in lower case.
NULL_WORDS = ("nan", "-nan", "null", "(null)", "<null>", "none", "n/a", "#n/a", "na", "#na", "<na>", "\\n")
# Printable ASCII without "&", words parted by single spaces: `clean_title` leaves it as it is.
PLAIN_TITLE = "[!-%'-~]+( [!-%'-~]+)*"


def clean_title(raw: str | None, counts: Counter[str] | None = None) -> str:
    """Unescape HTML entities (also escaped twice), NFKC, drop control characters, collapse white space; "" where
    nothing is left.

    `counts` learns which of these changed something: entities, nfkc, control characters, white space.
    """
    changes = Counter[str]() if counts is None else counts
    text = raw or ""
    if "&" in text:
        given = text
        for _ in range(_UNESCAPE_ROUNDS):
            unescaped = html.unescape(text)
            if unescaped == text:
                break
            text = unescaped
        changes["entities"] += text != given
    if not text.isascii():
        given, text = text, unicodedata.normalize("NFKC", text)
        changes["nfkc"] += text != given
    given, text = text, _SPACE.sub(" ", text).strip()
    changes["white space"] += text != given
    if not text.isprintable():
        given, text = text, "".join(c for c in text if c in _JOINERS or unicodedata.category(c) not in _NOISE)
        changes["control characters"] += text != given
        text = _SPACE.sub(" ", text).strip()
    return text if text.strip(_JOINERS + " ") else ""


def cut_title(text: str, max_length: int) -> str:
    """At most `max_length` characters, cut at a space where one is in the second half."""
    if len(text) <= max_length:
        return text
    space = text.rfind(" ", max_length // 2, max_length + 1)
    return text[: space if space > 0 else max_length].strip()


def clean_titles(
    raw: Iterable[str | None], max_length: int, counts: Counter[str], keep_null_words: bool = False
) -> list[str | None]:
    """Clean and cut many titles; None where nothing is left, and for `NULL_WORDS` unless they are kept.

    Adds to `counts`: read, missing (there was none), empty (nothing is left), null words, changed, cut, and what
    `clean_title` changed.
    """
    titles: list[str | None] = []
    for title in raw:
        cleaned = clean_title(title, counts)
        text = cut_title(cleaned, max_length)
        is_null = not keep_null_words and text.lower() in NULL_WORDS
        counts["read"] += 1
        counts["null words"] += is_null
        counts["changed"] += bool(text) and text != title and not is_null
        counts["cut"] += text != cleaned
        counts["missing"] += title is None
        counts["empty"] += title is not None and not text
        titles.append(None if is_null else text or None)
    return titles


def count_plain_titles(n: int, counts: Counter[str]) -> None:
    """What `clean_titles` adds to `counts` for `n` titles that are `PLAIN_TITLE` and short enough."""
    for what in ("read", "changed", "cut", "missing", "empty", "null words", "white space"):
        if n:
            counts[what] += n if what == "read" else 0
