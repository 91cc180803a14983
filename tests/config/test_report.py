"""config.report and its reference rows."""

import pytest

from cprec_jax.config.build import build
from cprec_jax.config.report import ReportSpec
from cprec_jax.errors import UserError


def test_reference_rows_take_the_default_source_and_their_own():
    section = {
        "reference": {
            "source": "README",
            "protocol": "leave-one-out",
            "Books": {
                "popularity": {"HR@10": 0.0122},
                "SASRec": {"hr@10": 0.06, "source": "a paper", "protocol": "time split"},
            },
        }
    }
    rows = build(ReportSpec, section, "config.report").reference_rows()
    assert [(r.set_name, r.method, r.values, r.source, r.protocol) for r in rows] == [
        ("Books", "popularity", {"hr@10": 0.0122}, "README", "leave-one-out"),
        ("Books", "SASRec", {"hr@10": 0.06}, "a paper", "time split"),
    ]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"Books": {"popularity": {"hr@10": 0.1}}}, "no `source`"),
        ({"source": "x", "Books": {"popularity": {"hr@10": "0.1"}}}, "expected a number"),
        ({"source": "x", "Books": {"popularity": {}}}, "no metric"),
        ({"source": "x", "Books": {"popularity": 0.1}}, "expected a mapping"),
        ({"source": "x", "Books": {"popularity": {"hr@10": 0.1, "protocol": 3}}}, "expected text"),
    ],
)
def test_a_wrong_reference_is_the_users_mistake_and_says_where(reference, message):
    with pytest.raises(UserError, match=message) as error:
        build(ReportSpec, {"reference": reference}, "config.report")
    assert "reference.Books" in str(error.value)
    assert "\n" not in str(error.value)
