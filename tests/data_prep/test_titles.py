import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.engine import Engine, quoted
from data_prep.titles import PLAIN_TITLE, clean_title, clean_titles, count_plain_titles, cut_title


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("Salt &amp;amp; Pepper", "Salt & Pepper"),
        ("caf&eacute;  au\tlait\n", "café au lait"),
        ("ﬁne ｗｉｄｅ ①", "fine wide 1"),
        ("cafe\u0301", "café"),
        ("a\x00b\u200bc\ufeffd", "abcd"),
        ("non\u00a0breaking", "non breaking"),
        ("fun 👩\u200d🚀 time", "fun 👩\u200d🚀 time"),
        ('24" TV <b>new</b>', '24" TV <b>new</b>'),
        ("日本語", "日本語"),
        ("&nbsp; ", ""),
        ("\u200d", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_clean_title(raw, clean):
    assert clean_title(raw) == clean


def test_cut_at_a_space_when_one_is_near():
    assert cut_title("one two three", 9) == "one two"
    assert cut_title("one two", 7) == "one two"
    assert cut_title("x" * 2000, 300) == "x" * 300
    assert cut_title("a " + "x" * 50, 20) == "a " + "x" * 18


def test_counts():
    counts: Counter[str] = Counter()
    assert clean_titles(["a", " b ", None, "", "word " * 10], 12, counts) == ["a", "b", None, None, "word word"]
    assert {key: n for key, n in counts.items() if n} == {
        "read": 5,
        "changed": 2,
        "cut": 1,
        "missing": 1,
        "empty": 1,
        "white space": 2,
    }
    clean_titles(["a &amp; b", "ﬁne", "a\x00b", "&lt;b&gt;\u200b c", "plain", "&nbsp;"], 50, counts := Counter())
    kinds = ("entities", "nfkc", "control characters", "white space", "empty", "missing", "changed")
    assert [counts[kind] for kind in kinds] == [3, 2, 2, 1, 1, 0, 4]


@given(st.text(max_size=60), st.integers(1, 40))
@settings(max_examples=150)
def test_any_text_becomes_one_short_clean_line(raw, max_length):
    text = cut_title(clean_title(raw), max_length)
    assert len(text) <= max_length
    assert text == text.strip()
    assert not any(unicodedata.category(c) == "Cc" for c in text)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp("engine"), threads=1)
    yield engine
    engine.close()


@given(title=st.text(alphabet="ab &;\t\n%'~!\x00\x1f\x7f\xa0é<", max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_plain_title_needs_no_cleaning(engine, title):
    plain = engine.value(f"SELECT regexp_full_match({quoted(title)}, {quoted(PLAIN_TITLE)})")
    parts = title.split(" ")
    assert plain == (all(parts) and title.isascii() and title.isprintable() and "&" not in title)
    if plain:
        counts, without = Counter(), Counter()
        assert clean_titles([title], 300, counts) == [title]
        count_plain_titles(1, without)
        assert (without, without.keys()) == (counts, counts.keys())
