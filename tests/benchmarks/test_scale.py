"""Cells of the scale benchmark: measured, kept, tried again; and the sections made of them."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from benchmarks import report, report_scale, results, scale
from benchmarks.figures import log_log_svg
from benchmarks.measured import CommandError


@pytest.fixture
def result_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "machine_line", lambda: "a machine")  # the real one imports torch
    monkeypatch.setattr(scale, "FOLDER", tmp_path)
    return tmp_path


def cell(engine: str, rows: int, **changes):
    made = {"engine": engine, "rows": rows, "seconds": rows / 1e5, "rows_per_second": 100_000}
    return {**made, "peak_memory_mb": 300 + rows // 10_000, "date": "2026-01-01", **changes}


def test_a_small_cell_is_measured_in_a_process_of_its_own(tmp_path):
    found = scale.measure("polars", 5_000, tmp_path)
    assert (found["engine"], found["rows"], found["labelled_rows"]) == ("polars", 5_000, 5_000)
    steps = found["seconds_by_step"]
    assert found["seconds"] == pytest.approx(
        sum(steps.values()) - steps["imports and start"], abs=0.02
    )
    assert found["rows_per_second"] == pytest.approx(5_000 / found["seconds"], rel=0.01)
    assert 50 < found["peak_memory_mb"] < 1_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["interactions_5000.parquet"]


def test_finished_cells_are_kept_and_failed_ones_tried_again(result_folder, monkeypatch):
    calls = []

    def measure(engine, rows, work, limit_mb):
        calls.append((engine, rows))
        if calls.count((engine, rows)) == 1 and rows == 200 and engine == "pandas":
            raise CommandError("memory must stay below 5 MiB, got 6\nand more")
        return cell(engine, rows)

    monkeypatch.setattr(scale, "measure", measure)
    first = scale.run(["polars", "pandas"], [200, 100])
    assert calls == [("polars", 100), ("pandas", 100), ("polars", 200), ("pandas", 200)]
    assert [(c["engine"], c["rows"], "failed" in c) for c in first] == [
        ("pandas", 100, False),
        ("pandas", 200, True),
        ("polars", 100, False),
        ("polars", 200, False),
    ]
    assert first[1]["failed"] == "memory must stay below 5 MiB, got 6"
    stored = json.loads((result_folder / "scale.json").read_text())
    assert stored["cells"] == first
    assert stored["machine"] == "a machine"

    calls.clear()
    scale.run(["pandas", "polars"], [100, 200, 300])
    assert calls == [("pandas", 200), ("pandas", 300), ("polars", 300)]
    calls.clear()
    scale.run(["pandas"], [100], again=True)
    assert calls == [("pandas", 100)]
    assert len(scale.finished_cells()) == 6


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("dask", "engine must be one of pandas, .* got 'dask'"),
        ("none", "needs the package nowhere"),
    ],
)
def test_an_engine_that_is_not_there_stops_before_any_work(monkeypatch, engine, message):
    monkeypatch.setitem(scale.ENGINES, "none", "nowhere")
    monkeypatch.setattr(scale, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(ValueError, match=message):
        scale.run(["pandas", engine], [100])


def test_the_fields_are_those_of_the_table():
    data = scale.data_parameters()
    assert len(data.fields) == 15
    assert {field.column for field in data.fields if field.kind == "multi_valued"} == {"genres"}
    assert data.split.by == "time"


def sample_result():
    cells = [cell("pandas", 1_000_000), cell("pandas", 5_000_000, seconds=60.0)]
    cells.append({"engine": "pandas", "rows": 50_000_000, "failed": "too much memory"})
    cells.append(cell("spark", 1_000_000, seconds=30.0))
    return {"date": "2026-01-02", "machine": "a machine", "cells": cells}


def test_the_section_shows_every_cell():
    text = report_scale.scale_section(sample_result())
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[2] == "| pandas | 1,000,000 | 10.0 | 100,000 | 400 | 1.00 |"
    assert (
        rows[3] == "| pandas | 5,000,000 | 60.0 | 100,000 | 800 | 1.20 |"
    )  # 12 s a million, not 10
    assert rows[4] == "| pandas | 50,000,000 | did not end: too much memory |  |  |  |"
    assert rows[5].endswith("| 1.00 |")
    assert "2026-01-02, a machine." in text
    assert f"]({report_scale.FIGURE})" in text


def test_the_figure_has_a_point_for_each_finished_cell_at_its_place():
    drawing = report_scale.scale_figure(sample_result())
    assert drawing is not None
    root = ElementTree.fromstring(drawing)
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    assert len(circles) == 2 * 3
    text = " ".join(node.text or "" for node in root.iter() if node.tag.endswith("text"))
    for word in ("pandas", "spark", "seconds", "peak memory, MiB", "rows", "1 M", "5 M"):
        assert word in text


def test_a_figure_without_finished_cells_is_left_out():
    result = sample_result()
    result["cells"] = [c for c in result["cells"] if "failed" in c]
    assert report_scale.scale_figure(result) is None
    assert report_scale.FIGURE not in report_scale.scale_section(result)


def test_logarithmic_axes_place_equal_ratios_at_equal_distances():
    drawing = log_log_svg({"t": {"a & b": [(1, 10), (10, 100), (100, 1000)]}}, "x")
    places = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawing)
    (x0, y0), (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in places]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.11)
    assert x0 < x1
    assert y0 > y1  # up is less in SVG
    assert "a &amp; b" in drawing


@pytest.mark.parametrize("points", [[], [(1, 0)], [(-1, 2)]])
def test_points_that_have_no_logarithm_are_an_error(points):
    with pytest.raises(ValueError, match="points must be above 0 on logarithmic axes"):
        log_log_svg({"t": {"line": points}}, "x")


def test_the_figures_of_the_page_are_made_of_the_files():
    for path, drawing in report.figures().items():
        assert path.read_text(encoding="utf-8") == drawing
