"""Clean titles: what a language model should read, one line, no mark-up left-overs."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_SPACE = re.compile(r"\s+")
_TAG = re.compile(r"</?(?:b|i|u|em|strong|br|p|span|div|sup|sub)\s*/?>", re.IGNORECASE)
# Joiners build emoji and scripts such as Persian; every other format or control character is invisible noise.
_JOINERS = "\u200c\u200d"
_UNESCAPE_ROUNDS = 3


def clean_title(raw: str | None, max_length: int) -> str:
    """Unescape HTML entities (also escaped twice), NFKC, drop control characters, collapse white space, cut to `max_length` characters.

    Returns "" where nothing readable is left. A cut happens at a space where one is near.
    """
    if not raw:
        return ""
    text = raw
    for _ in range(_UNESCAPE_ROUNDS):
        unescaped = html.unescape(text)
        if unescaped == text:
            break
        text = unescaped
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = _SPACE.sub(" ", _TAG.sub(" ", text)).strip()
    if not text.isprintable():
        text = "".join(c for c in text if c in _JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
        text = _SPACE.sub(" ", text).strip()
    if len(text) > max_length:
        cut = text[: max_length + 1].rfind(" ")
        text = text[: cut if cut > max_length // 2 else max_length].strip()
    return text


def clean_titles(raw: Iterable[str | None], max_length: int, counts: Counter[str]) -> list[str | None]:
    """Clean many titles; None where nothing is left. Adds to `counts`: titles, changed, cut, empty."""
    cleaned: list[str | None] = []
    for title in raw:
        text = clean_title(title, max_length)
        counts["titles"] += 1
        counts["changed"] += text != title
        counts["empty"] += not text
        counts["cut"] += bool(text) and len(title or "") > max_length and len(clean_title(title, len(title or ""))) > max_length
        cleaned.append(text or None)
    return cleaned
