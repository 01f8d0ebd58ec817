"""A training step of DeepFM by the rows of its embedding table, with both kinds of updates.

Generated ids, uniform in each field: the worst case, since hardly a row is in the processor's
cache. Each cell runs in a process of its own. ``table_milliseconds`` is the part of a step that the
table alone has: lookup, gradient and update of one table, without a model. There
``torch.optim.SparseAdam`` is measured as well.

    python -m benchmarks large_vocabulary
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measured import own_peak_mb, run_measured

ROWS = (100_000, 1_000_000, 10_000_000)
UPDATES = ("batch_rows", "all_rows")
BATCH, FIELDS, EMBEDDING_SIZE = 1024, 8, 32
BATCHES = 16  # different ones, in turn
STEPS, SECONDS = 60, 30.0  # of each measurement, whichever ends first
REPOSITORY = Path(__file__).resolve().parents[1]


def run() -> dict[str, Any]:
    """Milliseconds and peak memory of each cell (rows, updates)."""
    cells = [
        {"rows": rows, "updates": updates}
        | run_measured(
            [sys.executable, "-m", "benchmarks.large_vocabulary", str(rows), updates],
            folder=REPOSITORY,
        ).result
        for rows in ROWS
        for updates in UPDATES
    ]
    return {
        "model": "deepfm",
        "batch": BATCH,
        "fields": FIELDS,
        "embedding_size": EMBEDDING_SIZE,
        "cells": cells,
    }


def cell(rows: int, updates: str) -> dict[str, float]:
    """Time the steps with one size of the table; the memory is that of the whole process."""
    import torch

    from clickprompt.parameters import TrainingParameters
    from clickprompt.training.machine import choose_machine

    choose_machine(TrainingParameters(device="cpu", precision="float32"))
    generator = torch.Generator().manual_seed(0)
    batches = torch.randint(0, rows // FIELDS, (BATCHES, BATCH, FIELDS), generator=generator)
    found = {"milliseconds": _model_milliseconds(rows, updates, batches)}
    found["peak_memory_mb"] = own_peak_mb()
    if updates == "batch_rows":
        found["table_milliseconds"] = _table_milliseconds(rows, batches, sparse_adam=False)
        found["sparse_adam_milliseconds"] = _table_milliseconds(rows, batches, sparse_adam=True)
    return found


def _model_milliseconds(rows: int, updates: str, batches: Any) -> float:
    """A step of the whole model, without reading data."""
    from clickprompt.ctr import build_ctr
    from clickprompt.models import CTRForClicks
    from clickprompt.parameters import ClickStageParameters, CTRParameters
    from clickprompt.training.optimizer import build_optimizer

    ctr = CTRParameters(name="deepfm", embedding_size=EMBEDDING_SIZE, linear=True)
    model = CTRForClicks(ctr=build_ctr(ctr, (rows // FIELDS,) * FIELDS)).train()
    settings = {"epochs": 1, "batch_size": BATCH, "weight_decay": 1e-5}
    stage = ClickStageParameters.model_validate(settings | {"embedding_updates": updates})
    optimizer = build_optimizer(model, stage)

    def step(number: int) -> None:
        model(batches[number % BATCHES]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return _milliseconds(step)


def _table_milliseconds(rows: int, batches: Any, *, sparse_adam: bool) -> float:
    """Lookup, gradient and update of the rows of a batch."""
    import torch

    from clickprompt.ctr import FeatureEmbedding
    from clickprompt.training.optimizer import LazyAdam

    table = FeatureEmbedding(field_sizes=(rows // FIELDS,) * FIELDS, embedding_size=EMBEDDING_SIZE)
    table.sparse_gradient = True
    optimizer: torch.optim.Optimizer = (
        torch.optim.SparseAdam(table.parameters())
        if sparse_adam
        else LazyAdam(table.parameters(), fused=True)
    )
    gradient_BFE = torch.randn(BATCH, FIELDS, EMBEDDING_SIZE)

    def step(number: int) -> None:
        table(batches[number % BATCHES]).backward(gradient_BFE)
        optimizer.step()
        optimizer.zero_grad()

    return _milliseconds(step)


def _milliseconds(step: Callable[[int], None]) -> float:
    """Median of the steps after all batches were seen, so that the moments' pages are there."""
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS
    for number in range(BATCHES + STEPS):
        start = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - start)
        if number >= 2 and time.perf_counter() > end:
            break
    return round(statistics.median(seconds[BATCHES:] or seconds[2:]) * 1e3, 2)


if __name__ == "__main__":
    print(json.dumps(cell(int(sys.argv[1]), sys.argv[2])))
