"""The sign of a lead: given for a real one, and to nobody where the two leaders ranked different items."""

from pathlib import Path

import numpy as np
import pytest

from cprec_jax.evaluate.results import read_results
from cprec_jax.report.marks import DAGGER, significance_marks
from tests.evaluate.test_significance import write_result


@pytest.mark.parametrize("masked", [True, False])
def test_leaders_that_ranked_other_items_get_no_sign(tmp_path: Path, masked: bool) -> None:
    (tmp_path / "results").mkdir()
    for name, better, mask in (("good", 3, True), ("bad", 40, masked)):
        full = {"hr@10": 1.0 if better < 10 else 0.0}
        sets = {"Toys": {"users": 200, "protocols": {"full": full}, "history_masked": mask}}
        write_result(tmp_path / "results", name, np.full((1, 200), better), sets=sets)
    expected = {("Toys", "hr@10", "good"): DAGGER} if masked else {}
    assert significance_marks(read_results(tmp_path), ["Toys"]) == expected
