"""What each of the ten CTR models costs: parameters, memory, seconds an epoch, rows a second.

The rows and sizes are those of ``benchmarks.ctr_speed``. Each model and precision runs in a process
of its own: a warm-up, then train steps for some seconds by the training loop of the stages, then
inference over valid and test. Seconds of an epoch are extrapolated from these steps and leave
validation out. Memory is what the peak of the process adds to its size before the model is built:
weights, gradients, Adam's two moments, activations and the predictions.

    python -m benchmarks.ctr_cost [--models fm ...] [--again]

Cells that were measured on this machine are kept, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import ctr_data
from benchmarks.ctr_speed import WARM_UP_STEPS, measured_before, options_of, rows_of_turn
from benchmarks.measured import own_peak_mb, run_measured
from benchmarks.peers import ctr_sizes as sizes
from benchmarks.project import REPOSITORY
from benchmarks.results import write_result
from benchmarks.scale import WORK
from clickprompt.parameters import CTR_MODELS

PRECISIONS = ("float32", "bf16")
REPEATS = 2


def run(
    models: Sequence[str] = CTR_MODELS,
    *,
    rows: int = ctr_data.ROWS,
    again: bool = False,
    work: Path = WORK,
) -> dict[str, Any]:
    """Measure the cells that are missing in the result file; write it after each.

    Args:
        models: of ``CTR_MODELS``.
        rows: of the generated table.
        again: measure the cells that were measured on this machine, too.
        work: folder of generated files, which are kept.

    Returns:
        ``rows``, ``batch`` and ``cells``: model, precision, ``parameters`` (``table``, ``rest``),
        ``memory_mb``, ``epoch_seconds``, rows per second of training and inference.

    Raises:
        ValueError: a model is unknown.
        CommandError: a process failed.
    """
    unknown = sorted(set(models) - set(CTR_MODELS))
    if unknown:
        raise ValueError(f"model must be one of {', '.join(CTR_MODELS)}, got {unknown[0]!r}")
    known = measured_before("ctr_cost", rows)
    cells = {(cell["model"], cell["precision"]): cell for cell in known.get("cells", ())}
    folder = work / f"ctr_{rows}"
    written = ctr_data.write_files(folder, rows)
    result: dict[str, Any] = known
    for model in models:
        for precision in PRECISIONS:
            if (model, precision) in cells and not again:
                print(f"{model}, {precision}: measured before on this machine", file=sys.stderr)
                continue
            command = [sys.executable, "-m", "benchmarks.ctr_cost", "--measure"]
            measured = run_measured(
                [*command, str(folder.resolve()), model, precision],
                folder=REPOSITORY,
                environment={"PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"},
            )
            cell = {"model": model, "precision": precision, **measured.result}
            cell["date"] = datetime.now(UTC).date().isoformat()
            print(json.dumps(cell), file=sys.stderr, flush=True)
            cells[model, precision] = cell
            result = {**written, "batch": sizes.BATCH_SIZE, "cells": ordered(cells.values())}
            write_result("ctr_cost", result)
    return result


def ordered(cells: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cells in the order of the models, then of the precisions."""
    return sorted(
        cells,
        key=lambda c: (CTR_MODELS.index(c["model"]), PRECISIONS.index(c["precision"])),
    )


def measure(folder: Path, model: str, precision: str) -> dict[str, Any]:
    """One cell, in this process."""
    from benchmarks.ctr_ours import Ours
    from clickprompt.training.machine import release_freed_memory

    ours = Ours(folder)
    release_freed_memory()
    reset_peak()
    before = own_peak_mb()
    parameters = ours.parameters(model, precision)
    train_rows = ours.train_rows
    warm_up = min(WARM_UP_STEPS * sizes.BATCH_SIZE, train_rows)
    seconds = [ours.train(model, precision, warm_up) for _ in range(2)][-1]
    rows = rows_of_turn(warm_up, seconds, train_rows)
    train = min(ours.train(model, precision, rows) for _ in range(REPEATS))
    predicted = [ours.predict(model, precision) for _ in range(REPEATS)]
    return {
        "parameters": parameters,
        "memory_mb": own_peak_mb() - before,
        "steps": -(-rows // sizes.BATCH_SIZE),
        "epoch_seconds": round(train * train_rows / rows, 4),
        "train_rows_per_second": round(rows / train),
        "predict_rows_per_second": round(max(count / took for count, took in predicted)),
    }


def reset_peak() -> None:
    """Let the peak that :func:`own_peak_mb` tells start at the present size (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def main() -> None:
    """Measure from the command line, or one cell for :func:`run`."""
    if sys.argv[1:2] == ["--measure"]:
        folder, model, precision = sys.argv[2:]
        print("\n" + json.dumps(measure(Path(folder), model, precision)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=CTR_MODELS, default=list(CTR_MODELS))
    options_of(parser)
    arguments = parser.parse_args()
    result = run(arguments.models, rows=arguments.rows, again=arguments.again, work=arguments.work)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
