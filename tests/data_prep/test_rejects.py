import pytest

from cprec_jax.errors import UserError
from data_prep.rejects import Rejects, named, shorten


def test_counts_and_first_samples():
    rejects = Rejects(max_bad_lines=10)
    rejects.count("unknown", 7, [f"i{i}" for i in range(7)])
    rejects.count("unknown", 2, ["more"])
    rejects.count("never", 0)
    assert rejects.as_dict() == {"unknown": {"n": 9, "samples": ["i0", "i1", "i2", "i3", "i4"]}}


def test_limit_is_per_file_over_all_reasons_and_names_the_line():
    rejects = Rejects(max_bad_lines=3)
    rejects.bad_lines("short", 3, "a.tsv", ["line 2: x"])
    rejects.bad_lines("short", 3, "b.tsv", ["line 5: y"])
    with pytest.raises(
        UserError, match=r"a.tsv: 4 bad lines, more than config.corpus.max_bad_lines = 3; negative, first line 9: z"
    ):
        rejects.bad_lines("negative", 1, "a.tsv", ["line 9: z"])


def test_samples_are_short_and_printable():
    rejects = Rejects(max_bad_lines=10)
    rejects.count("odd", 1, ["a\x00b" + "x" * 500])
    sample = rejects.as_dict()["odd"]["samples"][0]
    assert sample.isprintable() and len(sample) <= 120


def test_an_id_in_a_message_shows_its_blanks():
    assert (named("a1"), named(" a1"), named("a\n")) == ("a1", "' a1'", r"'a\n'")
    assert shorten("x" * 50, 10) == "x" * 9 + "…"


def test_why_a_file_has_no_good_line():
    rejects = Rejects(max_bad_lines=10)
    assert rejects.why_nothing("items") == "an empty items file makes no corpus"
    rejects.bad_lines("item without id", 1, "i.csv", ["line 2: ,A"], "items")
    rejects.bad_lines("malformed line: invalid encoding", 2, "i.csv", ["line 3: caf?"], "items")
    reason = rejects.why_nothing("items")
    assert reason.startswith(
        "malformed line: invalid encoding (2 times, first i.csv: line 3: caf?; the file is not UTF-8"
    )
    assert rejects.why_nothing("interactions") == "an empty interactions file makes no corpus"
