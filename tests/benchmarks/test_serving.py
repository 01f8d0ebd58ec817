"""The serving benchmark on a tiny project: it ends, and its section can be written."""

from __future__ import annotations

import pytest

from benchmarks.report_serving import serving_section
from benchmarks.serving import MALFORMED, ratio, run
from tests.serving.conftest import served_project  # noqa: F401


@pytest.mark.slow
def test_measures_and_reports(served_project):  # noqa: F811
    pytest.importorskip("onnxruntime")
    folder = served_project / "data/06_models/bundles"
    found = run(folder, rounds=3, seconds=2, malformed=2 * len(MALFORMED), prepared_rows=500)
    assert found["load"]["errors"] == found["load"]["wrong_answers"] == 0
    assert found["load"]["malformed_refused"] == 2 * len(MALFORMED)
    assert found["load"]["largest_difference_after"] < 1e-6
    text = serving_section(found | {"machine": "a machine", "date": "2026-01-01"})
    assert f"{found['load']['requests']:,} requests" in text


def test_ratio_is_of_each_round():
    assert ratio([2.0, 3.0, 8.0], [1.0, 2.0, 2.0])["median"] == 2.0
