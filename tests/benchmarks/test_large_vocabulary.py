"""The benchmark of large tables: a small cell runs, and the page says what the cells say."""

from __future__ import annotations

import pytest

from benchmarks import large_vocabulary
from benchmarks.report_ctr import large_vocabulary_section


@pytest.mark.parametrize("updates", large_vocabulary.UPDATES)
def test_a_cell_measures_the_kind_of_update_that_it_names(monkeypatch, updates):
    from clickprompt.training import optimizer

    monkeypatch.setattr(large_vocabulary, "BATCHES", 2)
    monkeypatch.setattr(large_vocabulary, "STEPS", 3)
    real, sparse = optimizer.LazyAdam.step, []

    def watched(self):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        sparse.append(any(grad.is_sparse for grad in grads))
        real(self)

    monkeypatch.setattr(optimizer.LazyAdam, "step", watched)
    found = large_vocabulary.cell(800, updates)
    assert set(sparse) == {updates == "batch_rows"}
    assert ("table_milliseconds" in found) == (updates == "batch_rows")
    assert all(value > 0 for value in found.values())


def test_the_page_has_a_line_for_each_size():
    cells = [
        {"rows": rows, "updates": updates, "milliseconds": ms, "peak_memory_mb": 1234}
        | {"table_milliseconds": 2.5, "sparse_adam_milliseconds": 5.5}
        for rows, updates, ms in (
            (1_000_000, "all_rows", 90.0),
            (1_000_000, "batch_rows", 10.0),
            (100_000, "batch_rows", 8.0),
            (100_000, "all_rows", 12.0),
        )
    ]
    text = large_vocabulary_section(
        {"date": "2026-01-02", "machine": "a machine", "cells": cells}
        | {"batch": 1024, "fields": 8, "embedding_size": 32}
    )
    lines = [line for line in text.splitlines() if line.startswith("| 1")]
    assert lines == [
        "| 100,000 | 8.0 | 12.0 | 1.5 | 2.5 | 5.5 | 1,234 | 1,234 |",
        "| 1,000,000 | 10.0 | 90.0 | 9.0 | 2.5 | 5.5 | 1,234 | 1,234 |",
    ]
    assert "2026-01-02, a machine." in text
