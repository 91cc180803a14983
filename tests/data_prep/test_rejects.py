import pytest

from cprec_jax.errors import UserError
from data_prep.rejects import Rejects


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
    with pytest.raises(UserError, match=r"a.tsv: 4 bad lines, more than config.corpus.max_bad_lines = 3; negative, first line 9: z"):
        rejects.bad_lines("negative", 1, "a.tsv", ["line 9: z"])


def test_samples_are_short_and_printable():
    rejects = Rejects(max_bad_lines=10)
    rejects.count("odd", 1, ["a\x00b" + "x" * 500])
    sample = rejects.as_dict()["odd"]["samples"][0]
    assert sample.isprintable() and len(sample) <= 120
