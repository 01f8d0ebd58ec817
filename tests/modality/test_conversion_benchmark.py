"""The conversion benchmark runs and its generated files have the published format."""

from __future__ import annotations

from benchmarks import conversion


def test_a_small_run_gives_all_figures():
    found = conversion.run(ratings=5_000)
    assert found["rows"] == 5_000
    assert 3_300 < found["labelled_rows"] < 4_100  # rating 3 is dropped
    assert found["rows_per_second"] > 0
    assert 50 < found["peak_memory_mb"] < 1500
    steps = sum(found["seconds_by_step"].values()) - found["seconds_by_step"]["imports"]
    assert abs(found["seconds"] - steps) < 0.02
